"""A chunk's result -> Redis: stored and counted in one step, by Celery's own backend.

Celery asks first whether there is a result, then stores this one, and the job's record would be
updated after that: three round trips, and a worker that dies between them leaves a chunk that is
done and not counted.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
from celery.backends.redis import RedisBackend
from celery.states import SUCCESS

from worker.contract.broker import patient_client
from worker.contract.jobs import JobStore


class ChunkResults(RedisBackend):
    """Celery's Redis backend, which counts a chunk in its job's record when it is stored.

    Where results have a Redis of their own it takes two steps: stored first, counted then.
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
        is_chunk = state == SUCCESS and isinstance(result, dict) and "images" in result
        apart = self.url != self.app.conf.broker_url
        if apart or not is_chunk:
            super()._store_result(task_id, result, state, traceback, request, **options)
        if is_chunk:
            body = b"" if apart else self._body(task_id, result, request)
            self._jobs.finish_chunk(
                result["job"],
                result["seq"],
                images=len(result["images"]),
                failed=sum(image["error"] is not None for image in result["images"]),
                body=body,
            )
        return result

    def _body(self, task_id: str, result: dict[str, Any], request: Any) -> bytes | str:
        meta = self._get_result_meta(
            result=result, state=SUCCESS, traceback=None, request=request
        ) | {"task_id": task_id}
        try:
            return msgspec.json.encode(meta)
        except UnicodeEncodeError:
            # A name that is no UTF-8 travels as lone surrogates, which msgspec refuses.
            body: bytes | str = self.encode(meta)
            return body

    @cached_property
    def _jobs(self) -> JobStore:
        # A client that rides out a short absence of Redis, as Celery's own storing does.
        return JobStore(patient_client(self.app.conf.broker_url), int(self.expires))
