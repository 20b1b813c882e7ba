"""POST /predict: one image -> its tags, ahead of all bulk jobs."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from producer.api.errors import UNPROCESSABLE, RefusedError, check_place
from producer.api.schemas import Manner, Prediction, Result
from producer.api.urgent_queue import BusyError, PredictRequest, UrgentQueue
from producer.backend.connection import Connection
from producer.jobs.options import JobOptions
from worker.contract.labels import LabelPack
from worker.contract.messages import ChunkResult
from worker.contract.stores.jobs import LostChunk

ANSWER_S: Final = 30.0
NAME_CHARS: Final = 1024
# What a client can do nothing about is the server's fault; all others are its own.
_STATUS: Final = {
    "too_large": 413,
    "too_many_pixels": 413,
    "too_complex": 413,
    "outside_roots": 403,
    "internal_error": 500,
    "inference_failed": 500,
    "out_of_memory": 500,
}


def predictions(connection: Connection, urgent_queue: UrgentQueue) -> APIRouter:
    """Return the route."""
    routes = APIRouter()

    @routes.post("/predict")
    async def predict(
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
        try:
            manner = Manner(
                labels=label,
                templates=template,
                top_k=top_k,
                threshold=threshold,
                calibrated=calibrated,
            )
        except ValidationError as e:
            message = f"{e.errors()[0]['loc'][0]}: {e.errors()[0]['msg']}"
            raise RefusedError(UNPROCESSABLE, "bad_request", message) from e
        if url is not None:
            check_place(url, url=True)
        request = PredictRequest(
            name=url or name_of(image),
            data=await image.read() if image else None,
            options=JobOptions(
                labels=await labels_of(connection, manner),
                top_k=top_k,
                threshold=manner.least(),
            ),
        )
        return _prediction(await _answer(urgent_queue, request))

    return routes


async def labels_of(connection: Connection, manner: Manner) -> str | None:
    """Store the label set that a request means; return its hash, or None for the model's own.

    Raises:
        LabelsError: it cannot be used.
    """
    pack = manner.pack()
    return await run_in_threadpool(connection.labels.put, pack) if pack != LabelPack() else None


def name_of(file: UploadFile | None) -> str:
    """Return what an upload is called in its record."""
    return ((file and file.filename) or "image")[:NAME_CHARS]


async def _answer(urgent_queue: UrgentQueue, request: PredictRequest) -> ChunkResult:
    try:
        answer = await urgent_queue.ask(request, ANSWER_S)
    except BusyError as e:
        raise RefusedError(429, "busy", "too many wait for an answer; try again") from e
    except TimeoutError as e:
        raise RefusedError(504, "no_answer", "no worker has answered in time") from e
    if isinstance(answer, LostChunk):
        raise RefusedError(500, "lost", answer.reason)
    return answer


def _prediction(answer: ChunkResult) -> Prediction:
    (image,) = answer.images
    if image.error is not None:
        code = image.error.code
        raise RefusedError(_STATUS.get(code, UNPROCESSABLE), code, image.error.message)
    timing = image.timing
    return Prediction(
        results=[Result(label=tag.label, score=round(tag.score, 6)) for tag in image.tags],
        timing={name: getattr(timing, name) for name in timing.__struct_fields__},
        batch_size=image.batch_size,
        model=answer.model,
        device=answer.device,
    )
