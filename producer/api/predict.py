"""POST /predict: one image -> its tags, ahead of all bulk jobs."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.concurrency import run_in_threadpool

from producer.api.bodies import release
from producer.api.errors import UNPROCESSABLE, RefusedError, check_place
from producer.api.hung_up import unless_hung_up
from producer.api.schemas import Manner, Prediction, Result
from producer.api.urgent_queue import BusyError, PredictRequest, StoppingError, UrgentQueue
from producer.backend.connection import Connection
from producer.jobs.options import JobOptions
from worker.contract.labels import LabelPack
from worker.contract.messages import ChunkResult
from worker.contract.stores.jobs import LostChunk

ANSWER_S: Final = 30.0
NAME_CHARS: Final = 1024
# Twice as long as needed, since half of it may be over when the next request comes.
_LABELS_TTL_S: Final = 600
# What a client can do nothing about is the server's fault; all others are its own.
_STATUS: Final = {
    "too_large": 413,
    "too_many_pixels": 413,
    "too_complex": 413,
    "outside_roots": 403,
    "internal_error": 500,
    "inference_failed": 500,
    "out_of_memory": 500,
    # Redis has lost what this server stored a moment ago: asked again, it has it.
    "blob_missing": 503,
}


def predictions(connection: Connection, urgent_queue: UrgentQueue) -> APIRouter:
    """Return the route."""
    routes = APIRouter()

    @routes.post("/predict")
    async def predict(
        request: Request,
        *,
        image: Annotated[UploadFile | None, File(description="a file; or give a URL")] = None,
        url: Annotated[str | None, Form(max_length=8192)] = None,
        label: Annotated[list[str], Form(description="else the model's own")] = [],  # noqa: B006 - FastAPI copies it
        template: Annotated[list[str], Form(description="with {} for the label")] = [],  # noqa: B006
        top_k: Annotated[int, Form(ge=1, le=1000)] = 5,
        threshold: Annotated[float | None, Form(ge=0, le=1)] = None,
        calibrated: Annotated[bool, Form()] = False,
    ) -> Prediction:
        """Tag one image: an uploaded file, or a URL below those that workers may fetch from."""
        if (image is None) == (url is None):
            message = "give image or url, one of them"
            raise RefusedError(UNPROCESSABLE, "bad_request", message)
        form = {
            "labels": label,
            "templates": template,
            "top_k": top_k,
            "threshold": threshold,
            "calibrated": calibrated,
        }
        manner = _manner(form)
        if url is not None:
            check_place(url, url=True)
        options = JobOptions(
            labels=await labels_of(connection, manner),
            top_k=top_k,
            threshold=manner.least(),
        )
        asking = _answer(urgent_queue, await _loaded(image, url or "", options), request)
        return _prediction(await unless_hung_up(request, asking))

    return routes


def _manner(form: dict[str, Any]) -> Manner:
    try:
        return msgspec.convert(form, Manner)
    except msgspec.ValidationError as e:
        raise RefusedError(UNPROCESSABLE, "bad_request", str(e)) from e


async def _loaded(image: UploadFile | None, url: str, options: JobOptions) -> PredictRequest:
    """Return the request with the bytes of the upload, which are not kept beside it."""
    if image is None:
        return PredictRequest(name=url, data=None, options=options)
    data = await image.read()
    await image.close()
    return PredictRequest(name=name_of(image), data=data, options=options)


async def labels_of(connection: Connection, manner: Manner) -> str | None:
    """Store the label set that a request means; return its hash, or None for the model's own.

    Raises:
        LabelsError: it cannot be used.
    """
    pack = manner.pack()
    if pack == LabelPack():
        return None
    return await run_in_threadpool(connection.labels.put_briefly, pack, _LABELS_TTL_S)


def name_of(file: UploadFile | None) -> str:
    """Return what an upload is called in its record."""
    return ((file and file.filename) or "image")[:NAME_CHARS]


def status_of(code: str) -> int:
    """Return the HTTP status of an image that failed with this code."""
    return _STATUS.get(code, UNPROCESSABLE)


async def _answer(
    urgent_queue: UrgentQueue, image: PredictRequest, request: Request
) -> ChunkResult:
    asking = urgent_queue.ask(image, ANSWER_S, lambda: release(request.scope))
    # Who waits need not keep the bytes.
    del image
    try:
        answer = await asking
    except BusyError as e:
        raise RefusedError(429, "busy", "too many wait for an answer; try again") from e
    except StoppingError as e:
        raise RefusedError(503, "stopping", "the server stops; try again") from e
    except TimeoutError as e:
        raise RefusedError(504, "no_answer", "no worker has answered in time") from e
    if isinstance(answer, LostChunk):
        raise RefusedError(500, "lost", answer.reason)
    return answer


def _prediction(answer: ChunkResult) -> Prediction:
    (image,) = answer.images
    if image.error is not None:
        code = image.error.code
        raise RefusedError(status_of(code), code, image.error.message)
    timing = image.timing
    return Prediction(
        results=[Result(label=tag.label, score=round(tag.score, 6)) for tag in image.tags],
        timing={name: getattr(timing, name) for name in timing.__struct_fields__},
        batch_size=image.batch_size,
        model=answer.model,
        device=answer.device,
    )
