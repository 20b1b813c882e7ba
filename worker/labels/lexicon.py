"""A word that a lexicon does not know -> the nearest that it does."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from difflib import get_close_matches
from typing import Final

from tokenizers import Tokenizer

_MOST: Final = 3
_LEAST_LIKENESS: Final = 0.6
# A plural, or a letter too many: no `groenendael` for `general`, no `wallet` for `wall` (0.8).
_LEAST_LIKENESS_OF_LETTERS: Final = 0.82
# Shorter words lie in too many others to say anything.
_LEAST_SIGNS: Final = 2
_WORD: Final = re.compile(r"[0-9A-Za-z]+")


def nearest_words(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, list[str]]:
    """Return for each text a few words that contain it, that it contains, or that resemble it.

    Words are as the tokenizer has them: in small letters and without blanks. Of a text in letters
    they are whole words of it, or resemble it closely. Their order is always the same.
    """
    # Sorted: a tokenizer lists them in another order in each process.
    known = sorted(word for word in tokenizer.get_vocab() if not word.startswith("["))
    return {text: _nearest(tokenizer, text, known) for text in texts}


def _nearest(tokenizer: Tokenizer, text: str, known: Sequence[str]) -> list[str]:
    normal = _normal(tokenizer, text)
    if not normal.isascii():
        return _nearest_signs(normal, known)
    similar = get_close_matches(normal, known, _MOST, _LEAST_LIKENESS_OF_LETTERS)
    return list(dict.fromkeys([*_parts(tokenizer, text, set(known)), *similar]))[:_MOST]


def _normal(tokenizer: Tokenizer, text: str) -> str:
    normal: str = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return normal


def _parts(tokenizer: Tokenizer, text: str, known: Container[str]) -> list[str]:
    """Return the known words of a text in letters, the longest first: of `a red wine`, `wine`."""
    parts = (_normal(tokenizer, word) for word in _WORD.findall(text))
    return sorted({part for part in parts if part in known}, key=lambda part: (-len(part), part))


def _nearest_signs(text: str, known: Iterable[str]) -> list[str]:
    """Return a few words, the nearest first: by their parts, their likeness, their last sign."""
    known = [word for word in known if not word.isascii()]
    related = [word for word in known if _says_something(word, text)]
    # The longest part of the text first, and the shortest word around it.
    related.sort(key=lambda word: abs(len(word) - len(text)))
    similar = get_close_matches(text, known, _MOST, _LEAST_LIKENESS)
    # In Chinese the last sign is the kind of thing.
    kindred = sorted((word for word in known if text and word.endswith(text[-1])), key=len)
    return list(dict.fromkeys([*related, *similar, *kindred]))[:_MOST]


def _says_something(word: str, text: str) -> bool:
    return min(len(word), len(text)) >= _LEAST_SIGNS and (word in text or text in word)
