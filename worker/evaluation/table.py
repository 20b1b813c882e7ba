"""A table of paths and labels -> each picture's path and the names of what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from worker.contract.i18n import gettext_noop as N_
from worker.contract.label_files import decoded_text, given_reason, table_rows
from worker.contract.labels import LabelsError, line_place
from worker.contract.local.files import read_given
from worker.contract.urls import is_url

# A million lines of some length.
_MOST_BYTES: Final = 256 * 1024 * 1024
_PATH: Final = frozenset({"path", "file", "filename", "image", "路径", "文件"})
_LABEL: Final = frozenset({"label", "labels", "标签"})
_SEPARATORS: Final = ("\t", ",", ";")
# Between labels in one cell.
_IN_CELL: Final = re.compile(r"[|｜;；\n]")


def read_table(file: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Return paths with their labels, in order; lines of the same path are one picture.

    The first line is a header. Paths are relative to the directory of the table. Several labels in
    a cell are separated by `|` or `;`.

    Raises:
        LabelsError: naming the line, it cannot be read or used.
    """
    try:
        text = decoded_text(read_given(file, _MOST_BYTES)).removeprefix("\ufeff")
    except OSError as e:
        raise LabelsError(given_reason(e)) from e
    found: dict[str, dict[str, None]] = {}
    for path, labels in _rows(text):
        place = path if is_url(path) else str(file.parent / path)
        found.setdefault(place, {}).update(dict.fromkeys(labels))
    return [(path, tuple(labels)) for path, labels in found.items()]


def _rows(text: str) -> list[tuple[str, list[str]]]:
    first = text.partition("\n")[0]
    separator = next((one for one in _SEPARATORS if one in first), ",")
    rows = table_rows(text, separator)
    _, header = next(rows, (0, []))
    columns = _columns(header) if header else (0, 0)
    return [_row(cells, columns, line) for line, cells in rows]


def _columns(cells: list[str]) -> tuple[int, int]:
    """Return where the path and the labels stand."""
    names = [cell.casefold() for cell in cells]
    places = [
        next((n for n, name in enumerate(names) if name in known), -1) for known in (_PATH, _LABEL)
    ]
    if -1 in places:
        raise LabelsError(
            N_("the first line must be a header that names the columns path and label")
        )
    return places[0], places[1]


def _row(cells: list[str], columns: tuple[int, int], line: int) -> tuple[str, list[str]]:
    cells += [""] * (max(columns) + 1 - len(cells))
    path = cells[columns[0]]
    if not path:
        raise LabelsError(N_("{place}: the path is blank"), place=line_place(line))
    labels = (label.strip() for label in _IN_CELL.split(cells[columns[1]]))
    return path, [label for label in labels if label]
