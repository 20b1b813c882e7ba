"""Celery's consumer, for which a Redis that refuses is one that is away: it waits and says so."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from celery.worker.consumer import Consumer

from worker.contract.redis.errors import reason_of
from worker.service.redis_contact import RedisContact

SHORTEST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 4.0
# A connection that held for so long was a good one: the next pause is short again.
_GOOD_S: Final = 10.0
_TICK_S: Final = 0.1

log = structlog.get_logger()


def reconnecting(redis_contact: RedisContact, check: Callable[[], None]) -> type[Consumer]:
    """Return the consumer that tells `contact` why it connects anew.

    `check` is called with each connection, before anything is done on it, and raises what is wrong.
    Celery connects anew at once where the server is there, some hundred times a second while it is
    read-only, or full, or hangs up.
    """

    class Reconnecting(Consumer):
        _pause_s = SHORTEST_PAUSE_S
        _lost_at_s = float("-inf")

        def connect(self) -> Any:
            """Return a connection to a Redis that was found fit."""
            connection = super().connect()
            try:
                check()
            except BaseException:
                connection.close()
                raise
            return connection

        def on_connection_error_before_connected(self, exc: Exception) -> None:
            """Say so, and wait."""
            redis_contact.lost(exc)
            log.warning("redis.waiting", reason=reason_of(exc))
            self._rest()

        def on_connection_error_after_connected(self, exc: Exception) -> None:
            """Say so, let go of the connection, and wait."""
            redis_contact.lost(exc)
            log.warning("redis.lost", reason=reason_of(exc))
            with warnings.catch_warnings():
                # About what a later Celery will do by default.
                warnings.simplefilter("ignore", CPendingDeprecationWarning)
                super().on_connection_error_after_connected(exc)
            self._rest()

        def _rest(self) -> None:
            """Wait, longer each time; a worker that is to stop does not."""
            now_s = time.monotonic()
            if now_s - self._lost_at_s > _GOOD_S:
                self._pause_s = SHORTEST_PAUSE_S
            ends_s = now_s + self._pause_s
            while time.monotonic() < ends_s:
                state.maybe_shutdown()
                time.sleep(_TICK_S)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._lost_at_s = time.monotonic()

    return Reconnecting
