"""A chunk's result -> Redis: stored and counted in one step, by Celery's own backend.

Celery asks first whether there is a result, then stores this one, and the job's record would be
updated after that: three round trips, and a worker that dies between them leaves a chunk that is
done and not counted.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from copy import copy
from functools import cached_property, partial
from typing import Any, Final

import redis
from celery.backends.redis import RedisBackend
from celery.states import FAILURE, REVOKED, SUCCESS
from celery.worker import state as worker_state
from redis.backoff import ExponentialWithJitterBackoff

from worker.contract import legacy
from worker.contract.codec import encode
from worker.contract.keys import Keys
from worker.contract.messages import ChunkResult, MessageError, split_task_id
from worker.contract.queue.app import REPLICAS, keys_of
from worker.contract.queue.envelope import images_shown
from worker.contract.queue.url_numbers import broker_url_of, result_url_of
from worker.contract.redis.connections import single_try_client
from worker.contract.redis.errors import passes, reason_of
from worker.contract.redis.replicas import WAIT_S, await_replicas
from worker.contract.redis.retry import RetryPolicy
from worker.contract.stores.jobs import LOST, MESSAGE_LOST, PATHS, JobStore, paths_in
from worker.service.delivery import DELIVERY, Delivery, Tagged

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

    def mark_unreadable(self, task_id: str, error: MessageError, images: int) -> None:
        """Store why a message could not be processed, and count its images, if it is a chunk's."""
        self.mark_as_failure(task_id, error)
        RetryPolicy().call(partial(self._count_failed, task_id, images, LOST))

    def _count_failed(self, task_id: str, images: int, code: str) -> None:
        """Count a chunk's images as failed, if it is known how many they are."""
        if images and (place := split_task_id(task_id)):
            codes = {code: images}
            self._jobs.finish_chunk(*place, images=images, failed=images, codes=codes)

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
        found = result.result if isinstance(result, Tagged) else None
        apart = self._is_apart
        is_legacy = bool(getattr(request, legacy.MARK, False)) and legacy.is_served(self._keys)
        if apart or found is None:
            # Those of old producers are read at the name that they had.
            backend, plain = (
                self._legacy if is_legacy else self,
                found.to_wire() if found else result,
            )
            backend.store_plainly(task_id, plain, state, traceback, request, **options)
            # Those beside the queue come and go with what is known of the chunk.
            await_replicas(self.client, self._keys, self._replicas if apart else 0, WAIT_S)
        if state == REVOKED:
            images = images_shown(getattr(request, "argsrepr", ""))
            self._count_failed(task_id, images, MESSAGE_LOST)
        if found is not None:
            body = b"" if apart else self._body(task_id, found, request)
            key = legacy.result(task_id) if is_legacy else None
            self._finish(found, body, key, getattr(request, DELIVERY, None) or Delivery())
        elif state == FAILURE:
            self._count_lost(task_id, _chunk_of(request))

    def _finish(
        self, result: ChunkResult, body: bytes, key: str | None, delivery: Delivery
    ) -> None:
        """Count a chunk's images, and acknowledge its message if it goes with the result."""
        codes = Counter(image.error.code for image in result.images if image.error)
        self._jobs.finish_chunk(
            result.job,
            result.seq,
            images=len(result.images),
            failed=codes.total(),
            codes=codes,
            body=body,
            key=key,
            ack_tag=delivery.ack_tag,
        )
        delivery.is_acked = bool(delivery.ack_tag)

    def _count_lost(self, task_id: str, wire: Any) -> None:
        """Count the images of a chunk that failed, so that its job ends.

        After the failure is stored: whoever waits for the job reads it then. A chunk that came
        under the id of another is not counted as that.
        """
        images = wire.get("images") if isinstance(wire, dict) else None
        if not ((place := split_task_id(task_id)) and isinstance(images, list)):
            return
        if (wire.get("job", place[0]), wire.get("seq", place[1])) == place:
            lost = len(images)
            self._jobs.finish_chunk(*place, images=lost, failed=lost, codes={LOST: lost})

    def _get_result_meta(
        self, result: Any, state: str, traceback: Any, request: Any, **options: Any
    ) -> dict[str, Any]:
        """Return what Celery stores; of a chunk that failed, with the paths of its images."""
        meta: dict[str, Any] = super()._get_result_meta(
            result, state, traceback, request, **options
        )
        if state != SUCCESS and (paths := paths_in(_chunk_of(request))):
            meta[PATHS] = paths
        return meta

    def store_plainly(self, *arguments: Any, **options: Any) -> None:
        """Store a result as Celery does, and count nothing."""
        super()._store_result(*arguments, **options)

    def _body(self, task_id: str, result: ChunkResult, request: Any) -> bytes:
        meta = self._get_result_meta(
            result=result, state=SUCCESS, traceback=None, request=request
        ) | {"task_id": task_id}
        return encode(meta)

    @cached_property
    def _is_apart(self) -> bool:
        """Whether results have a Redis of their own."""
        return result_url_of(self.app) != broker_url_of(self.app)

    @property
    def _replicas(self) -> int:
        return int(self.app.conf.result_backend_transport_options.get(REPLICAS, 0))

    @cached_property
    def _keys(self) -> Keys:
        return keys_of(self.app)

    @cached_property
    def _legacy(self) -> ChunkResults:
        """This backend with the names that results had before the prefix."""
        other = copy(self)
        other.task_keyprefix = legacy.result("").encode()
        return other

    @cached_property
    def _jobs(self) -> JobStore:
        client = single_try_client(broker_url_of(self.app))
        apart = self._is_apart
        results = self.client if apart else None
        return JobStore(client, int(self.expires), keys=self._keys, results=results)

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - Celery's
        """Return what Celery would read from a URL: ours is parsed by now."""
        return defaults

    def _create_client(self, **params: Any) -> Any:  # noqa: ARG002 - Celery's
        return single_try_client(result_url_of(self.app))


def _chunk_of(request: Any) -> object:
    """Return a task's only argument, whatever it is."""
    args: Any = getattr(request, "args", None) or ()
    return args[0] if len(args) == 1 else None


def _is_stopping() -> bool:
    # Celery's own: None or False while the worker runs, else an exit code.
    asked = (worker_state.should_stop, worker_state.should_terminate)
    return any(one is not None and one is not False for one in asked)
