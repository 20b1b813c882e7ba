"""Names of files as text that any program can read, or any terminal show."""

from __future__ import annotations

from collections.abc import Sequence


def utf8(name: str) -> str:
    """Return a name as true UTF-8: bytes that are none, kept as lone surrogates, are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def printable(name: str) -> str:
    """Return a name on one line, with what no terminal can show escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in utf8(name))


def about(names: Sequence[str]) -> str:
    """Return what several names are, on one line."""
    more = f" (+{len(names) - 1:,})" if len(names) > 1 else ""
    return f"{printable(names[0])}{more}"
