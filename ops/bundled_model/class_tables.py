"""classes.tsv and categories.tsv -> typed rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent


class Class(NamedTuple):
    """One of the thousand classes: its Chinese name, other words for it, and its kind."""

    name: str
    aliases: tuple[str, ...]
    english: tuple[str, ...]
    parent: str


class Category(NamedTuple):
    """A kind of classes; `parent` is its top category, or "" if it is one itself."""

    name: str
    aliases: tuple[str, ...]
    english: tuple[str, ...]
    parent: str


def classes() -> list[Class]:
    """Return the classes in the order of the published weights."""
    return [
        Class(row["name"], _split(row["aliases"]), _split(row["english_aliases"]), row["parent"])
        for row in _rows("classes.tsv")
    ]


def categories() -> list[Category]:
    """Return the categories, the top ones first."""
    return [
        Category(
            row["category"], _split(row["aliases"]), _split(row["english_aliases"]), row["parent"]
        )
        for row in _rows("categories.tsv")
    ]


def tops() -> list[str]:
    """Return the top categories."""
    return [one.name for one in categories() if not one.parent]


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _split(cell: str) -> tuple[str, ...]:
    return tuple(cell.split("|")) if cell else ()


def english_objects() -> dict[str, tuple[str, ...]]:
    """Return the English words of the objects of the drawings, by their code."""
    return {row["code"]: _split(row["english"]) for row in _rows("objects_english.tsv")}
