"""What we say in English -> the same in the language of the user, as far as a catalogue has it.

Sentences are matched as a whole with what changes in them left open, so whoever says something need
not know of this. What is not in the catalogue stays as it is: nothing is ever lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

OPEN: Final = "{}"
_LANGUAGES: Final = ("zh",)
# As the C library looks for them.
_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")
# Longer ones are somebody else's, and matching takes time that grows faster than they do.
_LONGEST: Final = 2000
_BLANKS: Final = 2
_PLACE: Final = re.compile(r"\{(\d*)\}")


class Phrase(NamedTuple):
    """A sentence with open places, and how it is said."""

    pattern: re.Pattern[str]
    said: str


class Catalogue:
    """Pairs of sentences of one language."""

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self._whole: Final = {
            english: said for english, said in pairs.items() if OPEN not in english
        }
        # What says most by itself comes first: the open places of others may hold anything.
        ordered = sorted(pairs, key=lambda english: -len(english.replace(OPEN, "")))
        self._phrases = [
            Phrase(_pattern(english), pairs[english]) for english in ordered if OPEN in english
        ]

    def translated(self, words: str) -> str:
        """Return the words in this language, and sentences that stand in their open places too."""
        if words in self._whole:
            return self._whole[words]
        if len(words) <= _LONGEST:
            for phrase in self._phrases:
                if found := phrase.pattern.fullmatch(words):
                    return _filled(phrase.said, [self._part(part) for part in found.groups()])
        return words

    def _part(self, words: str) -> str:
        # A word or two are a name, whatever they mean.
        return self.translated(words) if words.count(" ") >= _BLANKS else words


def translated(words: str) -> str:
    """Return what we say in the language of the user's locale."""
    catalogue = _catalogue(language())
    return catalogue.translated(words) if catalogue else words


def language(environ: Mapping[str, str] = os.environ) -> str:
    """Return the language that the user reads, `en` if it is none that we speak."""
    locale = next((environ[name] for name in _VARIABLES if environ.get(name)), "")
    found = locale.partition("_")[0].partition(".")[0].lower()
    return found if found in _LANGUAGES else "en"


@cache
def _catalogue(name: str) -> Catalogue | None:
    return Catalogue(read_pairs(name)) if name in _LANGUAGES else None


@cache
def read_pairs(name: str) -> dict[str, str]:
    """Return the catalogue of a language: sentences in English, and how they are said.

    Raises:
        ValueError: a pair is incomplete, or its open places differ.
    """
    text = files("producer.console.locale").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    pairs: dict[str, str] = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("# ")]
        if not lines:
            continue
        english, said = lines
        if len(_PLACE.findall(said)) != english.count(OPEN) or english in pairs:
            raise ValueError(english)
        pairs[english] = said
    return pairs


def _pattern(english: str) -> re.Pattern[str]:
    parts = (re.escape(part) for part in english.split(OPEN))
    return re.compile("(.+?)".join(parts), re.DOTALL)


def _filled(said: str, parts: list[str]) -> str:
    numbers = iter(range(len(parts)))
    return _PLACE.sub(lambda m: parts[int(m[1]) if m[1] else next(numbers)], said)
