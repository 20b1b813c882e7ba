"""Texts that must not be seen: they print as stars in logs, tracebacks and formats alike."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit, urlunsplit

STARS: Final = "***"


class Secret:
    """A text that shows itself only to who asks for it by `reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself: for the library that needs it, not for people."""
        return self._text

    def __str__(self) -> str:
        return STARS if self._text else ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class SecretUrl(Secret):
    """A URL that shows itself with its password masked."""

    __slots__ = ()

    def __str__(self) -> str:
        return mask(self._text)

    @property
    def scheme(self) -> str:
        """What stands before `://`, or nothing."""
        return self._text.partition("://")[0].lower() if "://" in self._text else ""


def mask(url: str) -> str:
    """Return `url` with its password hidden; all of its middle, if it cannot be taken apart."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return f"{url.partition('://')[0]}://{STARS}" if "://" in url else STARS
    if not password:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{STARS}@{host}"))
