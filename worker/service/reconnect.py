"""Celery's consumer, which waits for a Redis that is away or refuses, and says so.

Celery connects anew at once where the server is there: some hundred times a second while it is
read-only, or full, or hangs up.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state
from celery.worker.consumer import Consumer

from worker.contract.redis.errors import reason_of
from worker.service.redis_contact import RedisContact

SHORTEST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 4.0
# After a connection that held for so long, the next pause is short again.
_STABLE_S: Final = 10.0
_TICK_S: Final = 0.1

log = structlog.get_logger()


class _Hooks(NamedTuple):
    """`check` is called with each new connection, before anything else, and raises what is wrong.

    `redis_contact` is notified of each connection that is lost, with the reason, and `explain`
    returns that as it is logged.
    """

    redis_contact: RedisContact
    check: Callable[[], None]
    explain: Callable[[BaseException], str]


class ReconnectingConsumer(Consumer):
    """Waits between two tries to connect, longer each time; a worker that is to stop does not."""

    hooks: ClassVar[_Hooks]
    _pause_s = SHORTEST_PAUSE_S
    _lost_at_s = float("-inf")

    def connect(self) -> Any:
        """Return a connection to a Redis that was found fit."""
        connection = super().connect()
        try:
            self.hooks.check()
        except BaseException:
            connection.close()
            raise
        return connection

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Log the reason, and wait."""
        self.hooks.redis_contact.lost(exc)
        log.warning("redis.waiting", reason=self.hooks.explain(exc))
        self._rest()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Log the reason, let go of the connection, and wait."""
        self.hooks.redis_contact.lost(exc)
        log.warning("redis.lost", reason=self.hooks.explain(exc))
        with warnings.catch_warnings():
            # About what a later Celery will do by default.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        self._rest()

    def _rest(self) -> None:
        now_s = time.monotonic()
        if now_s - self._lost_at_s > _STABLE_S:
            self._pause_s = SHORTEST_PAUSE_S
        ends_s = now_s + self._pause_s
        while time.monotonic() < ends_s:
            state.maybe_shutdown()
            time.sleep(_TICK_S)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._lost_at_s = time.monotonic()


def reconnecting(
    redis_contact: RedisContact,
    check: Callable[[], None],
    explain: Callable[[BaseException], str] = reason_of,
) -> type[Consumer]:
    """Return the consumer for one worker, which calls these."""
    hooks = _Hooks(redis_contact, check, explain)
    return type(ReconnectingConsumer.__name__, (ReconnectingConsumer,), {"hooks": hooks})
