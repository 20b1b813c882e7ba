"""A chunk's result -> Redis: stored and counted in one step, by Celery's own backend.

Celery asks first whether there is a result, then stores this one, and the job's record is updated
after that: three round trips, and a worker that dies between them leaves a chunk that is done and
not counted.
"""

from __future__ import annotations

from typing import Any

import msgspec
from celery.backends.redis import RedisBackend
from celery.states import SUCCESS

from worker.contract.jobs import JobStore


class ChunkResults(RedisBackend):
    """Celery's Redis backend, where the job's record lies in the same Redis."""

    _jobs: JobStore | None = None

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **options: Any,
    ) -> Any:
        if state != SUCCESS or not isinstance(result, dict) or "images" not in result:
            return super()._store_result(task_id, result, state, traceback, request, **options)
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        images = result["images"]
        self._store().finish_chunk(
            result["job"],
            result["seq"],
            images=len(images),
            failed=sum(image["error"] is not None for image in images),
            body=self._body(meta | {"task_id": task_id}),
        )
        return result

    def _body(self, meta: dict[str, Any]) -> bytes | str:
        try:
            return msgspec.json.encode(meta)
        except UnicodeEncodeError:
            # A name that is no UTF-8 travels as lone surrogates, which msgspec refuses.
            body: bytes | str = self.encode(meta)
            return body

    def _store(self) -> JobStore:
        if self._jobs is None:
            self._jobs = JobStore(self.client, int(self.expires))
        return self._jobs
