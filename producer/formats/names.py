r"""Names of files <-> UTF-8, without loss: for formats whose texts must be UTF-8.

A byte that is not UTF-8 is a lone surrogate in a name (PEP 383), and six plain characters in a
file: `\udcff`. A name that holds such characters itself has its backslashes doubled before them.
"""

from __future__ import annotations

import re
from typing import Final

# A lone surrogate, or what one is written as, with the backslashes before it.
_TO_ESCAPE: Final = re.compile(r"(\\*)(?:([\ud800-\udfff])|(?=u[dD][89a-fA-F][0-9a-fA-F]{2}))")
_ESCAPED: Final = re.compile(r"(\\+)(u[dD][89a-fA-F][0-9a-fA-F]{2})")


def to_utf8(name: str) -> str:
    """Return a name as true UTF-8; all others but those named above stay as they are."""
    is_plain = "\\" not in name and name.isascii()
    return name if is_plain else _TO_ESCAPE.sub(_escape, name)


def from_utf8(text: str) -> str:
    """Return the name that `to_utf8` was given."""
    return _ESCAPED.sub(_unescape, text) if "\\" in text else text


def _escape(found: re.Match[str]) -> str:
    doubled = found[1] * 2
    return f"{doubled}\\u{ord(found[2]):04x}" if found[2] else doubled


def _unescape(found: re.Match[str]) -> str:
    backslashes, code = found[1], found[2]
    kept = backslashes[: len(backslashes) // 2]
    return kept + (chr(int(code[1:], 16)) if len(backslashes) % 2 else code)
