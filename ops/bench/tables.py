"""Figures -> what a bench hands over: a table in Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def hand_over(figures: Any, file: Path | None, text: str = "") -> None:
    """Print the figures, as `text` or else as JSON; write them as JSON to a file if there is one.

    This is how every bench ends, and how `ops/bench/all` gets its figures.
    """
    body = json.dumps(figures, ensure_ascii=False, indent=1)
    print(text or body)
    if file:
        file.write_text(body + "\n", encoding="utf-8")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table, padded so that it is legible as it is, too.

    The first column is set left, all others right.
    """
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = (heads, rule, *rows)
    return "\n".join(f"| {' | '.join(_padded(line, widths))} |" for line in lines)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(cells, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
