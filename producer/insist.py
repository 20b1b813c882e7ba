"""What needs Redis, asked for again while it is away: for minutes, and not in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import redis
from kombu.exceptions import OperationalError

# Clients try on their own for half a minute before they raise one of these; but at once where a
# connection that they take from their pool breaks, and the next one too.
AWAY: Final = (redis.ConnectionError, redis.TimeoutError, OperationalError)
_PAUSE_S: Final = 1.0

T = TypeVar("T")


def insist(
    do: Callable[[], T],
    patience_s: float,
    on_away: Callable[[Exception], None] = lambda _: None,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what `do` returns, which must bear being done twice; `on_away` hears of each failure.

    Raises:
        Exception: its last one, if Redis stays away for longer than `patience_s`.
    """
    began_s = now()
    while True:
        try:
            return do()
        except AWAY as e:
            if now() - began_s >= patience_s:
                raise
            on_away(e)
            sleep(_PAUSE_S)
