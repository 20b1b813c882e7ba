"""Figures of any bench -> tables in Markdown and bars, by a few hints on what of them to show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tables import markdown

# By what a row is called, in this order: all that it has of these.
_NAMES: Final = ("what", "subject", "family", "batch", "latency_ms", "workers", "labels")
_SKIPPED: Final = {"machine"}
_EMPTY: Final = (None, "")
_MOST_ITEMS: Final = 8
_DIGITS: Final = 4


class Table(NamedTuple):
    """A part of the figures: its key, empty for all; a heading; the columns, empty for all."""

    key: str = ""
    heading: str = ""
    columns: tuple[str, ...] = ()


class Chart(NamedTuple):
    """Bars of one value of each row of a part of the figures; `scale` says what it is."""

    key: str
    value: str
    scale: str


def tables(figures: Any, wanted: Sequence[Table]) -> Iterator[str]:
    """Yield the tables in Markdown; a part that is not there is left out."""
    for one in wanted:
        part = figures.get(one.key) if one.key and isinstance(figures, Mapping) else figures
        lists = {}
        if isinstance(part, Mapping):
            lists = {name: rows for name, rows in part.items() if _is_list_of_rows(rows)}
            part = {name: value for name, value in part.items() if name not in lists}
        if part:
            heading = f"{one.heading}:\n\n" if one.heading else ""
            yield heading + _table(part, one.columns)
        for name, rows in lists.items():
            yield f"{_title(name)}:\n\n{_table(rows, ())}"
    if wanted and wanted[0].key and isinstance(figures, Mapping) and (said := _said(figures)):
        yield said


def bars(figures: Any, chart: Chart, file: Path, title: str) -> bool:
    """Draw the chart as PNG; False if there is nothing to draw, or nothing to draw with."""
    rows = [
        (name, float(value))
        for name, row in _rows(figures.get(chart.key, ()))
        if isinstance(value := row.get(chart.value), int | float) and value
    ]
    if not rows:
        return False
    try:
        from charts import Bar, bars as draw  # noqa: PLC0415, I001 - an extra
    except ImportError:
        return False
    shown = [Bar(name, value, _cell(value), _is_ours(name)) for name, value in rows]
    draw(shown, title, chart.scale, file)
    return True


def _table(part: Any, columns: Sequence[str]) -> str:
    rows = list(_rows(part))
    if not rows:
        # A heap of figures: each has a line.
        return markdown(["", "figure"], [[_title(k), _cell(v)] for k, v in _flat(part).items()])
    keys = dict.fromkeys(key for _, row in rows for key in row)
    names = [key for one in columns for key in keys if f"{key} ".startswith(f"{one} ")]
    names = [name for name in names or keys if any(row.get(name) not in _EMPTY for _, row in rows)]
    cells = [[title, *(_cell(row.get(name)) for name in names)] for title, row in rows]
    return markdown(["", *map(_title, names)], cells)


def _rows(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and values of each row, where the part has rows: a list, or alike mappings."""
    if isinstance(part, Mapping) and part and all(isinstance(v, Mapping) for v in part.values()):
        for name, row in part.items():
            yield str(name), _flat(row)
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for row in part:
            named = [key for key in _NAMES if key in row]
            title = ", ".join(_label(key, row[key]) for key in named)
            yield title, _flat({key: value for key, value in row.items() if key not in named})


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _label(key: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{_title(key)} {value:,g}"


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return all values by their path of names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before} {key}".strip()
        if key in _SKIPPED:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, name)
        else:
            found[name] = value
    return found


def _said(figures: Mapping[str, Any]) -> str:
    """Return what the bench says of its setting: the single values beside its parts."""
    single = {key: v for key, v in figures.items() if isinstance(v, str | int | float)}
    return ", ".join(f"{_title(key)}: {_cell(value)}" for key, value in single.items())


def _title(name: str) -> str:
    return name.replace("_per_", "/").replace("_", " ")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        more = ", ..." if len(value) > _MOST_ITEMS else ""
        return ", ".join(_cell(one) for one in value[:_MOST_ITEMS]) + more
    return str(value).replace("|", "\\|")


def _number(value: float) -> str:
    """Return four digits of a number, in full where they are before the point."""
    if value == 0:
        return "0"
    if abs(value) < 10**-_DIGITS:
        return f"{value:.1e}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 1
    if 0.99 < abs(value) < 1:  # noqa: PLR2004 - a cosine: what counts are the last digits
        return f"{value:.6f}".rstrip("0")
    return f"{value:,.{max(0, _DIGITS - whole)}f}"


def _is_ours(name: str) -> bool:
    return name.startswith(("wanwu", "torchscript"))
