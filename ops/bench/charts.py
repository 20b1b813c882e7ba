"""Figures -> a bar for each, drawn as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_OURS: Final = "#1f77b4"
_OTHERS: Final = "#9a9a9a"
_DOTS_PER_INCH: Final = 120


class Bar(NamedTuple):
    """A bar with its name before it and a note behind it; ours stand out."""

    name: str
    length: float
    note: str
    is_ours: bool


def bars(rows: Sequence[Bar], title: str, scale: str, file: Path) -> None:
    """Draw the rows from top to bottom; `scale` says what the lengths are."""
    sheet = Figure(figsize=(9, 1.2 + 0.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(sheet)
    axes = sheet.add_subplot()
    for place, row in enumerate(rows):
        axes.barh(place, row.length, 0.7, color=_OURS if row.is_ours else _OTHERS)
        axes.text(row.length, place, f" {row.note}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(scale)
    axes.set_title(title, fontsize=10, loc="left")
    sheet.savefig(file, dpi=_DOTS_PER_INCH)
