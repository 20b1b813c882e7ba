"""The one policy of trying again: what, how long, and with which pauses.

It is redis-py's own `Retry`, since every client of Redis takes one: the same class then serves
clients, Celery's publishing, whole steps of a job, and requests over HTTP. stamina and tenacity
would have stood beside it as a second policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import redis
from kombu.exceptions import OperationalError
from redis.backoff import AbstractBackoff, ConstantBackoff, ExponentialWithJitterBackoff
from redis.retry import Retry

from worker.contract.redis.errors import passes

T = TypeVar("T")
Errors = tuple[type[Exception], ...]

# How often clients that ride out a short absence try: about half a minute.
_RETRIES: Final = 12
_GROWING: Final = ExponentialWithJitterBackoff(base=0.05, cap=4.0)
_PAUSE_S: Final = 1.0
REDIS_ERRORS: Final[Errors] = (redis.RedisError, OperationalError)


class RetryPolicy(Retry):
    """Tries again after errors that pass, a dozen times within half a minute.

    What does not pass is raised at once. With a `timeout_s` the policy tries for so many seconds
    instead, at most, with a constant pause: for steps that Redis itself may hold up for minutes.
    """

    def __init__(
        self,
        timeout_s: float | None = None,
        *,
        retries: int = _RETRIES,
        pause_s: float = _PAUSE_S,
        errors: Errors = REDIS_ERRORS,
        is_passing: Callable[[Exception], bool] = passes,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how long, or how often, to try; `errors` are looked at by `is_passing`."""
        timed = timeout_s is not None
        backoff: AbstractBackoff = ConstantBackoff(pause_s) if timed else _GROWING
        super().__init__(backoff, -1 if timed else retries, errors)
        self._timeout_s = timeout_s
        self._is_passing = is_passing
        self._now = now

    def call(
        self, do: Callable[[], T], on_failure: Callable[[Exception], object] = lambda _: None
    ) -> T:
        """Return what `do` returns, which must bear being done twice.

        `on_failure` is called with each error after which it is tried again.

        Raises:
            Exception: the last error, when there is no time or try left, or one that stays.
        """
        return self.call_with_retry(do, on_failure)

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - redis-py's
    ) -> T:
        """Return what `do` returns, as redis-py's own does, but not after errors that stay."""
        began_s = self._now()

        def is_worth_it(error: Exception) -> bool:
            if self._timeout_s is not None and self._now() - began_s >= self._timeout_s:
                return False
            return self._is_passing(error) and (is_retryable is None or is_retryable(error))

        return super().call_with_retry(do, fail, is_worth_it, with_failure_count)
