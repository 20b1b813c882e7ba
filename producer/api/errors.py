"""What goes wrong with a request -> one shape of JSON and a status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import redis
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from producer.api.jobs import ClosedError, FullError, RedisFullError
from producer.api.schemas import Problem
from worker.contract.labels import LabelsError
from worker.contract.stores.jobs import NoSuchJobError
from worker.contract.urls import is_fetchable

# Around the bytes of an image in a form.
_FORM_BYTES: Final = 65_536
UNPROCESSABLE: Final = 422
_TOO_MANY: Final = 429
# MemoryWatch is made more slowly than workers take images.
_PAUSES_S: Final = {"redis_full": 5}
_CLIENT: Final = (400, 401, 403, 404, 409, 411, 413, UNPROCESSABLE, _TOO_MANY)
_SERVER: Final = (500, 503, 504)
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
        return _answer(error.status, error.code, str(error))

    async def invalid(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return _answer(UNPROCESSABLE, "bad_request", f"{place}: {first['msg']}")

    async def other(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return _answer(error.status_code, code, str(error.detail))

    app.add_exception_handler(HTTPException, other)
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RequestValidationError, invalid)


def limit_bodies(app: FastAPI, max_bytes: int) -> None:
    """Refuse a body that is longer than an image may be, before it is read."""

    @app.middleware("http")
    async def limit(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        size = request.headers.get("content-length", "")
        if "chunked" in request.headers.get("transfer-encoding", ""):
            return _answer(411, "no_length", "say how long the body is (Content-Length)")
        if size.isdecimal() and int(size) > max_bytes + _FORM_BYTES:
            message = f"{int(size):,} bytes are more than the limit of {max_bytes:,}"
            return _answer(413, "too_large", f"{message} (WANWU_MAX_FILE_BYTES)")
        return await go_on(request)


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
        return _answer(status, code, message or str(error))

    return handle


def _answer(status: int, code: str, message: str) -> Response:
    body = Problem(code=code, message=message).model_dump()
    pause_s = _PAUSES_S.get(code, 1 if status == _TOO_MANY else 0)
    return JSONResponse(body, status, {"Retry-After": str(pause_s)} if pause_s else None)
