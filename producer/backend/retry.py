"""What needs Redis, asked for again while it is away or refuses: for minutes, not in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import redis
from kombu.exceptions import OperationalError

from worker.contract.redis.errors import passes

# Clients try on their own for half a minute before they raise one of these that passes; but at once
# where a connection that they take from their pool breaks, and the next one too.
_ERRORS: Final = (redis.RedisError, OperationalError)
_PAUSE_S: Final = 1.0

T = TypeVar("T")


def retry(
    do: Callable[[], T],
    retry_timeout_s: float,
    on_away: Callable[[Exception], None] = lambda _: None,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what `do` returns, which must bear being done twice; `on_away` hears of each failure.

    Raises:
        Exception: its last one, if Redis stays so for longer than `patience_s`; at once, one that
            does not pass.
    """
    began_s = now()
    while True:
        try:
            return do()
        except _ERRORS as e:
            if not passes(e) or now() - began_s >= retry_timeout_s:
                raise
            on_away(e)
            sleep(_PAUSE_S)
