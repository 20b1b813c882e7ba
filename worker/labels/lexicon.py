"""A word that a lexicon does not know -> the nearest that it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

from tokenizers import Tokenizer

_MOST: Final = 3
_LEAST_LIKENESS: Final = 0.6
# Shorter words lie in too many others to say anything.
_LEAST_SIGNS: Final = 2
_LEAST_LETTERS: Final = 4


def nearest_words(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, list[str]]:
    """Return for each text the words that contain it, that it contains, or that resemble it.

    Words are as the tokenizer has them: in small letters and without blanks.
    """
    known = [word for word in tokenizer.get_vocab() if not word.startswith("[")]
    return {text: _nearest(_normal(tokenizer, text), known) for text in texts}


def _normal(tokenizer: Tokenizer, text: str) -> str:
    normal: str = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return normal


def _nearest(text: str, known: Iterable[str]) -> list[str]:
    """Return a few words, the nearest first: by their parts, their likeness, their last sign."""
    related = [word for word in known if _says_something(word, text)]
    # The longest part of the text first, and the shortest word around it.
    related.sort(key=lambda word: abs(len(word) - len(text)))
    similar = get_close_matches(text, known, _MOST, _LEAST_LIKENESS)
    # In Chinese the last sign is the kind of thing.
    ending = "" if text.isascii() else text[-1:]
    kindred = sorted((word for word in known if ending and word.endswith(ending)), key=len)
    return list(dict.fromkeys([*related, *similar, *kindred]))[:_MOST]


def _says_something(word: str, text: str) -> bool:
    least = _LEAST_LETTERS if word.isascii() else _LEAST_SIGNS
    return min(len(word), len(text)) >= least and (word in text or text in word)
