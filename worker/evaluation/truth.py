"""Names that people gave -> labels of a set: by the label, an alias, or a parent."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from worker.contract.ancestors import ancestors_of
from worker.contract.labels import LabelPack

# A name that no label has, or an alias, or a parent -> the label that means the same, if one does.
SameWord = Callable[[str], str | None]


class Truth(NamedTuple):
    """What a picture shows. Labels are numbers of the set.

    `name` is a label or a parent. `says` are the labels that say as much: itself and whatever lies
    below it. `right` are those and its parents: an animal is shown where a cat is.
    """

    name: str
    says: frozenset[int]
    right: frozenset[int]


class LabelNames:
    """The names of a label set, as people may write them.

    Case, width and the form of accents do not matter; `_` is a blank, as in names of folders.
    """

    def __init__(self, pack: LabelPack, same_word: SameWord = lambda _name: None) -> None:
        """Take a set whose labels are numbered in their order.

        `same_word` is asked for the label that a name means which stands nowhere in the set.
        """
        self._same_word = same_word
        self._rows = {label: row for row, label in enumerate(pack.labels)}
        self._parents = pack.parents
        self._children: dict[str, list[str]] = {}
        for child, parent in pack.parents.items():
            self._children.setdefault(parent, []).append(child)
        self._names: dict[str, str] = {}
        self._add((label, label) for label in pack.labels)
        self._add((alias, label) for label, some in pack.aliases.items() for alias in some)
        self._add((parent, parent) for parent in self._children)

    def _add(self, names: Iterable[tuple[str, str]]) -> None:
        for written, name in names:
            self._names.setdefault(written, name)
            self._names.setdefault(_plain(written), name)

    def find(self, written: str) -> Truth | None:
        """Return what a name means; None if the set has nothing of that name."""
        plain = _plain(written)
        name = self._names.get(written) or self._names.get(plain) or self._same_word(plain)
        if name is None:
            return None
        says = self._numbers(self._below(name))
        if not says:
            return None
        return Truth(name, says, says | self._numbers(ancestors_of(name, self._parents)))

    def find_all(self, written: Iterable[str]) -> tuple[tuple[Truth, ...], tuple[str, ...]]:
        """Return what names mean, each once, and the names that mean nothing here."""
        found: dict[str, Truth] = {}
        unknown: list[str] = []
        for name in written:
            truth = self.find(name)
            if truth is None:
                unknown.append(name)
            else:
                found[truth.name] = truth
        return tuple(found.values()), tuple(unknown)

    def _numbers(self, names: Iterable[str]) -> frozenset[int]:
        return frozenset(self._rows[name] for name in names if name in self._rows)

    def _below(self, name: str) -> Iterator[str]:
        """Yield a name and all that have it for a parent, or a parent's parent."""
        seen, waiting = {name}, [name]
        while waiting:
            yield (one := waiting.pop())
            below = [child for child in self._children.get(one, ()) if child not in seen]
            seen.update(below)
            waiting += below


def _plain(written: str) -> str:
    folded = unicodedata.normalize("NFKC", written).casefold()
    return " ".join(folded.replace("_", " ").split())
