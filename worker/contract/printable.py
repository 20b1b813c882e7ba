r"""Any text -> the same for the eyes of a person: what acts on a terminal, or hides, is escaped.

File names, reasons that a server gives, names of workers and models, labels: strangers choose them.
Whatever shows one to a person, in a terminal, a log or a page, passes it through here. Escaped are
the control characters (C0, C1, DEL), what turns the direction of writing (U+202A to U+202E, U+2066
to U+2069), characters without width, those that end a line or a paragraph, lone surrogates, and
characters that nobody has defined. Blanks of other widths, such as the ideographic one, stay.

Data for programs (JSON, CSV, Parquet) is not shown, and stays exact.
"""

from __future__ import annotations

import logging
import unicodedata
from typing import Final

_BLANK: Final = "Zs"
_LINE_BREAKS: Final = "\n\t"


def printable(text: str) -> str:
    r"""Return a text on one line; what cannot be shown is written as Python does, as `\x1b`."""
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """Return a text that may have several lines: line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(sign if sign in _LINE_BREAKS else _shown(sign) for sign in text)


def printable_json(text: str) -> str:
    """Return JSON for a terminal: the same values, with JSON's own escapes in its strings."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign in _LINE_BREAKS or _is_shown(sign) else _units(sign) for sign in text
    )


class PrintableFormatter(logging.Formatter):
    """Lines of a log of the standard library, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as text."""
        return printable_lines(super().format(record))


def _is_shown(sign: str) -> bool:
    return sign.isprintable() or unicodedata.category(sign) == _BLANK


def _shown(sign: str) -> str:
    return sign if _is_shown(sign) else repr(sign)[1:-1]


def _units(sign: str) -> str:
    r"""Return a character as JSON escapes it: one `\u....`, or two for those beyond U+FFFF."""
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))
