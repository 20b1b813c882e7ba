"""What goes wrong with a request -> one shape of JSON and a status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import redis
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from producer.api.jobs import ClosedError, FullError, RedisFullError
from producer.api.schemas import Problem
from worker.contract.codec import encode
from worker.contract.labels import LabelsError
from worker.contract.stores.jobs import NoSuchJobError
from worker.contract.urls import is_fetchable

UNPROCESSABLE: Final = 422
_TOO_MANY: Final = 429
# MemoryWatch is made more slowly than workers take images.
_PAUSES_S: Final = {"redis_full": 5}
_AWAY: Final = 503
_JSON: Final = "application/json"
_CLIENT: Final = (400, 401, 403, 404, 408, 409, 411, 413, 421, UNPROCESSABLE, _TOO_MANY)
_SERVER: Final = (500, _AWAY, 504)
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem} for status in (*_CLIENT, *_SERVER)
}
_KINDS: Final[dict[type[Exception], tuple[int, str, str]]] = {
    NoSuchJobError: (404, "no_such_job", ""),
    LabelsError: (UNPROCESSABLE, "bad_labels", ""),
    ClosedError: (409, "closed", "the job takes no more images"),
    FullError: (_TOO_MANY, "full", "workers must make room first; try again"),
    RedisFullError: (_TOO_MANY, "redis_full", ""),
    redis.exceptions.OutOfMemoryError: (503, "redis_full", "Redis is full: try again"),
    redis.RedisError: (503, "no_queue", "the queue does not answer"),
    # The log has it.
    Exception: (500, "internal_error", "the server failed on this request"),
}


class RefusedError(Exception):
    """A request ends with this problem."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def handle_errors(app: FastAPI) -> None:
    """Let every error end in the same shape."""
    for kind, (status, code, message) in _KINDS.items():
        app.add_exception_handler(kind, _handler(status, code, message))

    async def refused(_: Request, error: Exception) -> Response:
        if not isinstance(error, RefusedError):
            raise error
        return answer(error.status, error.code, str(error))

    async def invalid(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        # Only FastAPI's own look at files ends so, with names of its classes.
        is_no_file = first["type"] == "value_error"
        said = "send it as a file, with a file name" if is_no_file else first["msg"]
        return answer(UNPROCESSABLE, "bad_request", f"{place}: {said}")

    async def other(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        response = answer(error.status_code, code, str(error.detail))
        # Such as which methods are allowed instead.
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(HTTPException, other)
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RequestValidationError, invalid)


def check_place(place: str, *, url: bool = False) -> None:
    """Refuse what workers cannot read: neither a URL of theirs nor, unless `url`, an absolute path.

    Raises:
        RefusedError: it does.
    """
    if "\0" in place or not (is_fetchable(place) or (place.startswith("/") and not url)):
        kinds = "a URL" if url else "an absolute path or a URL"
        raise RefusedError(UNPROCESSABLE, "bad_request", f"{place[:100]!r} is not {kinds}")


def _handler(
    status: int, code: str, message: str
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_: Request, error: Exception) -> Response:
        return answer(status, code, message or str(error))

    return handle


def answer(status: int, code: str, message: str) -> Response:
    """Return an error in our shape; where it passes, with when to try again."""
    # The message may repeat a stranger's bytes that are no UTF-8.
    body = encode(Problem(code=code, message=message).model_dump())
    pause_s = _PAUSES_S.get(code, 1 if status in {_TOO_MANY, _AWAY} else 0)
    headers = {"Retry-After": str(pause_s)} if pause_s else None
    return Response(body, status, headers, _JSON)
