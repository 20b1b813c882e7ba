"""Whatever goes wrong with a request, the answer has one shape."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI

from producer.api.errors import RefusedError, handle_errors
from producer.api.predict import status_of

pytestmark = pytest.mark.fast


def asked(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of the answer of a route that raises an error."""
    app, sent = FastAPI(), []
    handle_errors(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    try:
        asyncio.run(app(scope, receive, send))
    except KeyError as e:
        # The log has it.
        assert e is error  # noqa: PT017 - it may come or not
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_message_may_repeat_bytes_that_are_no_text() -> None:
    message = "403 \udcff\x1b[31m"
    found = asked(RefusedError(422, "unreadable", message))
    assert found == (422, {"code": "unreadable", "message": message})


def test_what_nobody_thought_of_is_an_error_of_the_server_and_shows_nothing() -> None:
    status, reply = asked(KeyError("a secret"))
    assert (status, reply["code"]) == (500, "internal_error")
    assert "secret" not in reply["message"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("blob_missing", 503),  # Redis lost it: clients come again with 503, not with 422
        ("inference_failed", 500),
        ("outside_roots", 403),
        ("too_large", 413),
        ("not_an_image", 422),
        ("labels_missing", 422),
    ],
)
def test_a_failure_is_the_servers_or_the_clients(code: str, status: int) -> None:
    assert status_of(code) == status
