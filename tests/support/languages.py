"""What a command printed -> the English sentences in it, or the Chinese: names and data left out.

Text counts as English where three or more plain words follow each other with blanks between. Names,
paths, options, settings, URLs, commands as they are typed, and whatever stands in quotes are no
text: they are the same in every language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_VERBS = (
    "submit|watch|results|status|cancel|requeue|convert|retag|search|untag|serve|exporter|doctor"
    "|completion|start|export|bench|texts|health|labels|evaluate"
)
# An option with or without its value, a name in capitals, or a word that is no plain one.
_ARGUMENT = r"(?:-{1,2}[\w-]+(?:[ =][\w.|/<>*-]+)?|[A-Z|.\[\]]+|[<>|]+ ?\S+|\S*[\d./_*]\S*)"
_NOT_TEXT = (
    r"“[^”]*”",
    r'"[^"\n]*"',
    r"'[^'\n]*'",
    r"`[^`\n]*`",
    rf"\b(?:producer|worker) (?:{_VERBS})\b(?: {_ARGUMENT})*",
    r"\b(?:docker compose up redis|docker compose|redis-server|apt-get install|pip install)\b",
    r"\b(?:CONFIG SET|ACL SETUSER|appendonly yes|maxmemory-policy noeviction|appendonly no)\b",
    r"\b(?:Hugging Face|ONNX Runtime|HTTP API)\b",
    r"\w+://\S*",
    r"\[[\w|-]+\]",
    r"(?<![\w-])-{1,2}[a-z][\w-]*(?:[ =][A-Z|]+\b)?",
    r"[\w.~-]*/[^\s，。：；）]*",
    r"(?:\b[\w-]+|·)\.[A-Za-z0-9]{2,7}\b",
    r"\b[A-Z][A-Z0-9_]+\b",
    r"\b\w*[\d_@]\w*\b",
)
_WORD = r"[A-Z]?[a-z]+(?:['’-][a-z]+)*|[AaI]"
_PLAIN = re.compile(r"(?<![\w-])[A-Z]?[a-z]{2,}(?![\w-])")
_SENTENCE = re.compile(rf"(?<![\w-])(?:{_WORD})(?:[ ]+(?:{_WORD})){{2,}}(?![\w-])")
_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]+")


def english_in(text: str, data: Iterable[str] = ()) -> list[str]:
    """Return the runs of three or more English words in a text; `data` is no part of it."""
    return _SENTENCE.findall(_without(text, data))


def chinese_in(text: str, data: Iterable[str] = ()) -> list[str]:
    """Return the runs of Chinese characters and punctuation in a text; `data` is no part of it."""
    for name in sorted(data, key=len, reverse=True):
        text = text.replace(name, "·")
    return _CHINESE.findall(text)


def untranslated_lines(text: str, data: Iterable[str] = (), terms: Iterable[str] = ()) -> list[str]:
    """Return the lines that hold a plain English word, and no Chinese at all.

    `terms` are words that are the same in Chinese.
    """
    return [
        line
        for line in _without(text, data).splitlines()
        if set(_PLAIN.findall(line)) - set(terms) and not _CHINESE.search(line)
    ]


def _without(text: str, data: Iterable[str]) -> str:
    for name in sorted(data, key=len, reverse=True):
        text = text.replace(name, "·")
    for pattern in _NOT_TEXT:
        text = re.sub(pattern, "·", text)
    return text
