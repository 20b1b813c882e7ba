"""A count and its limit -> nothing, or the error that names both. For all formats."""

from __future__ import annotations

from worker.errors import TooComplexError


def at_most(count: int, limit: int, what: str) -> None:
    """Refuse more than `limit` of what is counted; `what` is a plural.

    Raises:
        TooComplexError: there are more.
    """
    if count > limit:
        raise TooComplexError(count, limit, what)
