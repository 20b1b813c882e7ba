"""/jobs: many images, by their paths, URLs or bytes -> records as lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, File, Form, Path, Request, UploadFile
from fastapi.responses import StreamingResponse

from producer.api.errors import UNPROCESSABLE, RefusedError, check_place
from producer.api.job_locks import JobLocks
from producer.api.jobs import ApiJobs
from producer.api.predict import name_of
from producer.api.results import ResultStreams
from producer.api.schemas import JobState, NewJob, json_body
from producer.backend.connection import Connection
from producer.backend.label_checks import UnfitLabelsError
from producer.jobs.cancel import cancel as cancel_job
from producer.jobs.chunks import Loaded
from producer.jobs.options import JobOptions
from worker.contract.codec import decode
from worker.contract.labels import LabelPack
from worker.contract.messages import ImageRef
from worker.contract.stores.jobs import Job

_UPLOAD_FILES: Final = 64
_SENDERS: Final = 4
_DETAIL_CHARS: Final = 300
# A job has a quarter million of texts at most, each between two quotes.
_MOST_QUOTES: Final = 2_000_000
_JSON: Final = "application/json"
_LINES: Final = "application/x-ndjson"

JobId = Annotated[str, Path(pattern=r"^[0-9A-Za-z_.-]{1,64}$")]


def bulk(connection: Connection, jobs: ApiJobs, streams: ResultStreams) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/jobs")
    _add_sending(routes, connection, jobs)
    _add_looking(routes, connection, jobs, streams)
    return routes


def _add_sending(routes: APIRouter, connection: Connection, jobs: ApiJobs) -> None:
    """Add the routes by which images come."""
    locks = JobLocks()
    run = _runner(ThreadPoolExecutor(_SENDERS, "sending"))

    @routes.post("", status_code=201, openapi_extra=json_body(NewJob))
    async def create(request: Request) -> JobState:
        """Begin a job of images that workers can reach, or an open one for uploads."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind.lower() != _JSON:
            raise RefusedError(UNPROCESSABLE, "bad_request", f"send JSON, as {_JSON}")
        job: Job = await run(_create, connection, jobs, await request.body())
        return _state(job)

    @routes.post("/{job}/images")
    async def upload(
        job: JobId,
        images: Annotated[list[UploadFile], File()],
        names: Annotated[str, Form(description='JSON: [{"path": ...}], else the files\' own')] = "",
    ) -> JobState:
        """Add images to an open job; while many of it wait, the answer is 429."""
        if len(images) > _UPLOAD_FILES:
            raise RefusedError(413, "too_many", f"at most {_UPLOAD_FILES} images at a time")
        refs = _named(names) if names else [ImageRef(name_of(one)) for one in images]
        if len(refs) != len(images):
            raise RefusedError(UNPROCESSABLE, "bad_request", "names: as many as images")
        async with locks.held(job):
            files = [Loaded(ref, await one.read()) for ref, one in zip(refs, images, strict=True)]
            return _state(await run(jobs.add, job, files))

    @routes.post("/{job}/close")
    def close(job: JobId) -> JobState:
        """Say that an open job gets no more images."""
        return _state(jobs.close(job))


def _add_looking(
    routes: APIRouter, connection: Connection, jobs: ApiJobs, streams: ResultStreams
) -> None:
    """Add the routes that show or cancel a job."""

    @routes.get("/{job}")
    def show(job: JobId) -> JobState:
        """Tell how far a job is."""
        return _state(jobs.look(job))

    @routes.delete("/{job}")
    def cancel(job: JobId) -> JobState:
        """Cancel a job: its images that wait in the queue fail with the code `cancelled`.

        One that is finished stays so, as the answer tells.
        """
        return _state(cancel_job(connection, job))

    @routes.get(
        "/{job}/results",
        response_class=StreamingResponse,
        responses={200: {"content": {_LINES: {"schema": {"type": "string"}}}}},
    )
    async def results(job: JobId, *, follow: bool = False) -> StreamingResponse:
        """Stream the records, a line of JSON each; to follow is to wait for all."""
        return StreamingResponse(await streams.open(job, follow=follow), media_type=_LINES)


def _runner(pool: ThreadPoolExecutor) -> Callable[..., asyncio.Future[Any]]:
    def run(do: Callable[..., Any], *given: object) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(pool, do, *given)

    return run


def _create(connection: Connection, jobs: ApiJobs, body: bytes) -> Job:
    if body.count(b'"') > _MOST_QUOTES:
        raise RefusedError(413, "too_many", "the body holds more texts than any job has")
    try:
        asked = msgspec.json.decode(body, type=NewJob)
    except (msgspec.MsgspecError, ValueError) as e:
        raise RefusedError(UNPROCESSABLE, "bad_request", f"body: {str(e)[:_DETAIL_CHARS]}") from e
    for place in asked.images:
        check_place(place)
    pack = asked.pack()
    # Labels are kept as long as images, and take as much.
    jobs.check_memory()
    _check_labels(connection, pack)
    labels = connection.labels.put(pack) if pack != LabelPack() else None
    options = _options(asked, labels)
    return jobs.create(options, asked.images, more=asked.open, labels=len(asked.labels))


def _check_labels(connection: Connection, pack: LabelPack) -> None:
    """Refuse labels that the model of a worker which is online cannot tell apart."""
    if (pack.labels or pack.background) and (worker := connection.first_worker()):
        try:
            connection.check_labels(pack, worker)
        except UnfitLabelsError as e:
            raise RefusedError(UNPROCESSABLE, "labels_alike", e.english) from e


def _options(asked: NewJob, labels: str | None) -> JobOptions:
    return JobOptions(
        labels=labels,
        top_k=asked.top_k,
        threshold=asked.least(),
        embeddings=asked.embeddings,
        thumbnail_px=asked.thumbnail_px,
        priority=asked.priority,
    )


def _named(names: str) -> list[ImageRef]:
    try:
        refs = msgspec.convert(decode(names), list[ImageRef])
    except (ValueError, msgspec.ValidationError) as e:
        raise RefusedError(UNPROCESSABLE, "bad_request", f"names: {e}") from e
    # Of each what it is called, and the stamp of its file; where it lies is not theirs to say.
    return [ImageRef(ref.path, stamp=ref.stamp) for ref in refs]


def _state(job: Job) -> JobState:
    return JobState(
        id=job.id,
        state=job.status,
        images=job.images,
        done=job.done,
        failed=job.failed,
        codes=dict(job.codes),
    )
