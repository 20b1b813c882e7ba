"""Celery's consumer, for which a Redis that refuses is one that is away: it waits and says so."""

from __future__ import annotations

import time
import warnings
from typing import Final

import redis
import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from celery.worker.consumer import Consumer

from worker.contact import Contact
from worker.contract.redis_errors import reason_of

SHORTEST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 4.0
# A connection that held for so long was a good one: the next pause is short again.
_GOOD_S: Final = 10.0
_TICK_S: Final = 0.1

log = structlog.get_logger()


def reconnecting(contact: Contact) -> type[Consumer]:
    """Return the consumer that tells `contact` why it connects anew.

    Celery connects anew at once after an error reply, since the server is there, and would do so
    some hundred times a second while it is read-only or full.
    """

    class Reconnecting(Consumer):
        _pause_s = SHORTEST_PAUSE_S
        _refused_at_s = float("-inf")

        def on_connection_error_before_connected(self, exc: Exception) -> None:
            """Say so, and wait."""
            contact.lost(exc)
            super().on_connection_error_before_connected(exc)
            self._rest(exc)

        def on_connection_error_after_connected(self, exc: Exception) -> None:
            """Say so, let go of the connection, and wait."""
            contact.lost(exc)
            log.warning("redis.lost", reason=reason_of(exc))
            with warnings.catch_warnings():
                # About what a later Celery will do by default.
                warnings.simplefilter("ignore", CPendingDeprecationWarning)
                super().on_connection_error_after_connected(exc)
            self._rest(exc)

        def _rest(self, error: Exception) -> None:
            """Wait after an error reply, longer each time; a worker that is to stop does not."""
            if not isinstance(error, redis.ResponseError):
                return
            now_s = time.monotonic()
            if now_s - self._refused_at_s > _GOOD_S:
                self._pause_s = SHORTEST_PAUSE_S
            ends_s = now_s + self._pause_s
            while time.monotonic() < ends_s:
                state.maybe_shutdown()
                time.sleep(_TICK_S)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._refused_at_s = time.monotonic()

    return Reconnecting
