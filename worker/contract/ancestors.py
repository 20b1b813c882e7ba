"""A label and the parents of a set -> its parent, the parent's parent, and so on; no circles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Of a tag. Our own vocabularies have two levels above the lowest.
MOST_ANCESTORS: Final = 8


def ancestors_of(label: str, parents: Mapping[str, str]) -> tuple[str, ...]:
    """Return what lies above a label, the nearest first: `MOST_ANCESTORS` at most.

    A line that leads back to a label of itself ends before that.
    """
    # Bounded: whoever sends a set chooses its parents, and each tag carries the line.
    line: list[str] = []
    name = parents.get(label)
    while name is not None and name != label and name not in line and len(line) < MOST_ANCESTORS:
        line.append(name)
        name = parents.get(name)
    return tuple(line)


def loop_of(parents: Mapping[str, str]) -> tuple[str, ...]:
    """Return labels each of which stands above the one before it, the first above the last.

    There are none if every line has an end.
    """
    ended: set[str] = set()
    for label in parents:
        line: dict[str, None] = {}
        name: str | None = label
        while name is not None and name not in ended and name not in line:
            line[name] = None
            name = parents.get(name)
        if name in line:
            names = list(line)
            return tuple(names[names.index(name) :])
        ended.update(line)
    return ()
