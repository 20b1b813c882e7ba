"""Texts that must not be seen: they print as stars in logs, tracebacks and formats alike."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from worker.contract.redis_address import STARS, AddressError, RedisAddress, masked, parse


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
    """The URL of a Redis. It is parsed when it is made, and shows itself without its password.

    One that cannot be read is shown by its scheme alone, and `problem` says what is wrong with it.
    """

    __slots__ = ("_found", "problem")

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self._found: RedisAddress | None = None
        # In English; no part of the URL is in it.
        self.problem = ""
        if text:
            try:
                self._found = parse(text)
            except AddressError as e:
                self.problem = str(e)

    def __str__(self) -> str:
        if self._found is not None:
            return self._found.shown
        return masked(self._text) if self._text else ""

    @property
    def address(self) -> RedisAddress:
        """Which Redis it means.

        Raises:
            AddressError: it cannot be read: see `problem`.
        """
        if self._found is None:
            raise AddressError(self.problem)
        return self._found

    def with_parameters(self, wanted: Mapping[str, str]) -> SecretUrl:
        """Return it with these parameters, where it lacks them; it must be one that can be read."""
        there = {part.partition("=")[0] for part in self._text.partition("?")[2].split("&")}
        added = {name: value for name, value in wanted.items() if name not in there}
        if not added:
            return self
        query = urlencode(added, quote_via=quote)
        return SecretUrl(f"{self._text}{'&' if '?' in self._text else '?'}{query}")

    @property
    def has_secret(self) -> bool:
        """Whether it is shown otherwise than it is written."""
        return str(self) != self._text
