"""A chunk's result -> Redis: stored and counted in one step, by Celery's own backend.

Celery asks first whether there is a result, then stores this one, and the job's record would be
updated after that: three round trips, and a worker that dies between them leaves a chunk that is
done and not counted.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from functools import cached_property
from typing import Any, Final

import redis
from celery.backends.redis import RedisBackend
from celery.states import SUCCESS
from celery.worker import state as worker_state
from redis.backoff import ExponentialWithJitterBackoff

from worker.contract.codec import encode
from worker.contract.queue.app import REPLICAS, keys_of
from worker.contract.queue.url_numbers import broker_url_of, result_url_of
from worker.contract.redis.connections import single_try_client
from worker.contract.redis.errors import passes, reason_of
from worker.contract.redis.replicas import WAIT_S, await_replicas
from worker.contract.stores.jobs import JobStore

# How long a worker that is asked to stop goes on trying to store a result.
STOP_PATIENCE_S: Final = 15.0
_BACKOFF: Final = ExponentialWithJitterBackoff(base=0.05, cap=4.0)

log = logging.getLogger(__name__)


class ChunkResults(RedisBackend):
    """Celery's Redis backend, which counts a chunk in its job's record when it is stored.

    It waits for a Redis that cannot store: Celery acknowledges a chunk whose storing failed, and
    its images would have no results. When the worker is asked to stop, it waits some seconds more
    and leaves the chunk to others.

    Results that have a Redis of their own take two steps: they are stored, then counted.
    """

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **options: Any,
    ) -> Any:
        failures, stopping_since_s = 0, 0.0
        while True:
            try:
                self._store_once(task_id, result, state, traceback, request, **options)
            except redis.RedisError as e:
                if not passes(e):
                    raise
                if _is_stopping():
                    stopping_since_s = stopping_since_s or time.monotonic()
                    if time.monotonic() - stopping_since_s > STOP_PATIENCE_S:
                        # Celery takes it for a process that was lost, and returns the chunk. After
                        # any other error it would call the chunk failed as soon as it can.
                        raise SystemExit from e
                if not failures:
                    log.warning("results.waiting: %s cannot be stored: %s", task_id, reason_of(e))
                failures += 1
                time.sleep(_BACKOFF.compute(failures))
            else:
                if failures:
                    log.warning("results.stored: %s, at try %d", task_id, failures + 1)
                return result

    def _store_once(
        self, task_id: str, result: Any, state: str, traceback: Any, request: Any, **options: Any
    ) -> None:
        is_chunk = state == SUCCESS and isinstance(result, dict) and "images" in result
        apart = result_url_of(self.app) != broker_url_of(self.app)
        if apart or not is_chunk:
            super()._store_result(task_id, result, state, traceback, request, **options)
            # Those beside the queue come and go with what is known of the chunk.
            await_replicas(self.client, keys_of(self.app), self._replicas if apart else 0, WAIT_S)
        if is_chunk:
            body = b"" if apart else self._body(task_id, result, request)
            errors = (one.get("error") for one in result["images"])
            codes = Counter(error["code"] for error in errors if error)
            self._jobs.finish_chunk(
                result["job"],
                result["seq"],
                images=len(result["images"]),
                failed=codes.total(),
                codes=codes,
                body=body,
            )

    def _body(self, task_id: str, result: dict[str, Any], request: Any) -> bytes:
        meta = self._get_result_meta(
            result=result, state=SUCCESS, traceback=None, request=request
        ) | {"task_id": task_id}
        return encode(meta)

    @property
    def _replicas(self) -> int:
        return int(self.app.conf.result_backend_transport_options.get(REPLICAS, 0))

    @cached_property
    def _jobs(self) -> JobStore:
        client = single_try_client(broker_url_of(self.app))
        return JobStore(client, int(self.expires), keys=keys_of(self.app))

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - Celery's
        """Return what Celery would read from a URL: ours is parsed by now."""
        return defaults

    def _create_client(self, **params: Any) -> Any:  # noqa: ARG002 - Celery's
        return single_try_client(result_url_of(self.app))


def _is_stopping() -> bool:
    # Celery's own: None or False while the worker runs, else an exit code.
    asked = (worker_state.should_stop, worker_state.should_terminate)
    return any(one is not None and one is not False for one in asked)
