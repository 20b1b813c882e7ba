"""Answers of a `producer serve` -> what is wrong, or how long to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import httpx2 as httpx
import msgspec

from producer.console.failures import sentence
from producer.errors import NoSuchJobError, ServerError
from worker.contract.i18n import gettext as _

REDIS_FULL: Final = "redis_full"
REDIS_FULL_PAUSE_S: Final = 5.0
_UNAVAILABLE: Final = 503
_NOT_FOUND: Final = 404
_SHORTEST_PAUSE_S: Final = 0.3
_LONGEST_PAUSE_S: Final = 30.0


class ServerWait:
    """The wait of one request for a server that says when to ask again (503 with Retry-After).

    `on_wait` is called with what the server says.
    """

    def __init__(
        self,
        timeout_s: float,
        on_wait: Callable[[str], object],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take for how long the same request is sent again."""
        self._on_wait = on_wait
        self._now = now
        self._ends_s = now() + timeout_s

    def pause_s(self, answer: httpx.Response) -> float:
        """Return after how many seconds to send the request again; 0: the answer is final.

        The body of the answer has been read.
        """
        asked = answer.headers.get("Retry-After")
        problem = problem_in(answer)
        is_full = problem.get("code") == REDIS_FULL
        if answer.status_code != _UNAVAILABLE or not (asked or is_full):
            return 0.0
        if self._now() >= self._ends_s:
            return 0.0
        self._on_wait(said(answer, problem))
        seconds = float(asked) if asked and asked.isdecimal() else REDIS_FULL_PAUSE_S
        return min(max(seconds, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)


def problem_in(answer: httpx.Response) -> dict[str, Any]:
    """Return what a server says is wrong; nothing if it is another program's answer."""
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def said(answer: httpx.Response, problem: dict[str, Any]) -> str:
    """Return the same as a sentence for a person."""
    code, message = problem.get("code"), problem.get("message")
    if isinstance(code, str) and isinstance(message, str):
        return sentence(code, message)
    return _("the server answered {status}").format(status=answer.status_code)


def checked(answer: httpx.Response) -> httpx.Response:
    """Return an answer that is not an error.

    Raises:
        NoSuchJobError: the server does not know the job.
        ServerError: it refuses for another reason.
    """
    if not answer.is_error:
        return answer
    problem = problem_in(answer)
    message = said(answer, problem)
    if answer.status_code == _NOT_FOUND and "code" in problem:
        raise NoSuchJobError(message)
    if not isinstance(problem.get("code"), str):
        raise ServerError(message)
    refused = _("the server refused: {code}: {message}")
    raise ServerError(refused.format(code=problem["code"], message=message))
