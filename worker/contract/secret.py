"""Texts that must not be seen: they print as stars in logs, tracebacks and formats alike."""

from __future__ import annotations

from typing import Final

STARS: Final = "***"
# Of parameters in a URL.
_SECRET_NAMES: Final = ("pass", "secret", "token")


class Secret:
    """A text that is shown only by `reveal`."""

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
        """The part before `://`, or nothing."""
        return self._text.partition("://")[0].lower() if "://" in self._text else ""


def mask(url: str) -> str:
    """Return `url` with whatever may be a secret hidden, however badly it is written.

    The part before the last `@` is a user and a password, also where a password that was not
    escaped holds a `/`, `?` or `#`. A user's name is shown if a password follows it.
    """
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    who, at, where = rest.rpartition("@")
    if at:
        user = who.partition(":")[0] if ":" in who else ""
        who = f"{user}:{STARS}" if ":" in who else STARS
    place, question, query = where.partition("?")
    shown = "&".join(map(_masked, query.split("&")))
    return f"{scheme}{mark}{who}{at}{place}{question}{shown}"


def _masked(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    is_secret = any(part in name.lower() for part in _SECRET_NAMES)
    return f"{name}{equals}{STARS}" if is_secret else parameter
