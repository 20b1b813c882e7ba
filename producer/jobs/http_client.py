"""Requests to a `producer serve`: its HTTP API as methods."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2 as httpx
import msgspec

from producer.console.failures import sentence
from producer.errors import NoSuchJobError, ServerError
from producer.jobs.chunks import Loaded
from producer.jobs.options import JobRequest
from worker.contract.codec import decode, encode
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.reasons import reason
from worker.contract.redis.retry import RetryPolicy

# Reading may take long: a server that waits for results sends nothing meanwhile.
_TIMEOUT: Final = httpx.Timeout(600.0, connect=5.0)
_CANCEL_TIMEOUT: Final = httpx.Timeout(5.0)
_FULL: Final = 429
_NOT_FOUND: Final = 404
_FULL_PAUSE_S: Final = 0.3
_REDIS_FULL: Final = "redis_full"
_REDIS_FULL_PAUSE_S: Final = 5.0
# How often a stream of records is opened again before the job fails.
_RETRIES: Final = 4
_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL)
_STREAM_ERRORS: Final = (*_ERRORS, ServerError)


class HttpClient:
    """A server and its API key. Closed by its `with` block; may be used by several threads."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url: Final = url.rstrip("/")
        self._client = httpx.Client(
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=_TIMEOUT,
            # The address is that of a neighbour: no proxy of the environment knows it.
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def models(self) -> list[str]:
        """Return the models of the workers that are online behind the server.

        Raises:
            ServerError: nobody answers.
        """
        return [worker["model"] for worker in self._ask("GET", "/health")["workers"]]

    def create(self, request: JobRequest) -> str:
        """Begin a job that is open for uploads, and return its id."""
        pack, options = request.pack, request.options
        body = {
            "open": True,
            "labels": pack.labels,
            "templates": pack.templates,
            "aliases": pack.aliases,
            "parents": pack.parents,
            "calibrated": pack.calibrated,
            "background": pack.background,
            "top_k": options.top_k,
            "threshold": options.threshold,
            "embeddings": options.embeddings,
            "thumbnail_px": options.thumbnail_px,
            "priority": options.priority,
        }
        return str(self._ask("POST", "/jobs", json=body)["id"])

    def upload(
        self,
        job: str,
        images: Sequence[Loaded],
        stopping: threading.Event,
        on_redis_full: Callable[[str], object] = lambda _: None,
    ) -> bool:
        """Send images to an open job, as soon as the server takes them; False if it is to stop.

        `on_redis_full` is called with what the server says while its Redis is full.

        Raises:
            ServerError: the server is gone, or refuses.
        """
        names = encode([{"path": one.ref.path, "stamp": one.ref.stamp} for one in images])
        files = [("images", (str(n), one.data)) for n, one in enumerate(images)]
        while not stopping.is_set():
            path = f"{_place(job)}/images"
            answer = self._send("POST", path, data={"names": names.decode()}, files=files)
            if answer.status_code != _FULL:
                _checked(answer)
                return True
            problem = _problem(answer)
            if problem.get("code") == _REDIS_FULL:
                on_redis_full(sentence(_REDIS_FULL, str(problem.get("message"))))
                stopping.wait(_REDIS_FULL_PAUSE_S)
            else:
                stopping.wait(_FULL_PAUSE_S)
        return False

    def close_job(self, job: str) -> None:
        """Say that a job gets no more images."""
        self._ask("POST", f"{_place(job)}/close")

    def job(self, job: str) -> dict[str, Any]:
        """Return what the server says of a job."""
        found: dict[str, Any] = self._ask("GET", _place(job))
        return found

    def cancel(self, job: str) -> None:
        """Cancel a job; somebody wants to leave, so a server that is gone is left alone."""
        with suppress(*_ERRORS):
            self._client.request("DELETE", f"{self.url}{_place(job)}", timeout=_CANCEL_TIMEOUT)

    def records(self, job: str, *, follow: bool = True) -> Iterator[list[Record]]:
        """Yield the records as they come; after a broken connection, those that are missing.

        Raises:
            ServerError: the server is gone, or refuses.
        """
        retry = RetryPolicy(retries=_RETRIES, errors=_STREAM_ERRORS, is_passing=_is_away)
        yielded, streamed, openings = Counter[str](), Counter[str](), 0
        url = f"{self.url}{_place(job)}/results"
        with _RecordStream(self._client, url, follow=follow) as lines:
            while True:
                try:
                    block = retry.call(lines.read)
                except _ERRORS as e:
                    raise self._unreachable(e) from e
                if block is None:
                    return
                if openings != lines.openings:
                    # From the beginning again, in whatever order.
                    streamed, openings = Counter(), lines.openings
                records = []
                for line in block:
                    record = msgspec.convert(decode(line), Record)
                    streamed[record.path] += 1
                    # An image may have been sent twice: then it has two records.
                    if streamed[record.path] > yielded[record.path]:
                        yielded[record.path] += 1
                        records.append(record)
                yield records

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        return msgspec.json.decode(_checked(self._send(method, path, **more)).content)

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._client.request(method, f"{self.url}{path}", **more)
        except _ERRORS as e:
            raise self._unreachable(e) from e

    def _unreachable(self, error: Exception) -> ServerError:
        why = reason(str(error) or type(error).__name__)
        return ServerError(_("no answer from {url}: {reason}").format(url=self.url, reason=why))


class _RecordStream:
    """Lines of a response, opened when it is first read and again after it broke."""

    def __init__(self, client: httpx.Client, url: str, *, follow: bool) -> None:
        self._client = client
        self._url = url
        self._follow = follow
        self._stack = ExitStack()
        self._blocks: Iterator[bytes] | None = None
        self._rest = b""
        self.openings = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def read(self) -> list[bytes] | None:
        """Return the whole lines that have come since, maybe none; None at the end."""
        try:
            self._blocks = self._blocks or self._open()
            block = next(self._blocks, None)
        except (httpx.HTTPError, ServerError):
            self._stack.close()
            self._blocks = None
            raise
        if block is None:
            return None
        # Not by httpx' own lines: those end at any line separator of Unicode, also within a name.
        *lines, self._rest = (self._rest + block).split(b"\n")
        return lines

    def _open(self) -> Iterator[bytes]:
        self._rest = b""
        self.openings += 1
        params = {"follow": "true"} if self._follow else {}
        response = self._client.stream("GET", self._url, params=params)
        answer = self._stack.enter_context(response)
        if answer.is_error:
            answer.read()
        return _checked(answer).iter_bytes()


def _problem(answer: httpx.Response) -> dict[str, Any]:
    """Return what a server says is wrong; nothing if it is another program's answer."""
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def _place(job: str) -> str:
    """Return where a job is at a server, whatever its id holds."""
    return f"/jobs/{quote(job, safe='', errors='backslashreplace')}"


def _is_away(error: Exception) -> bool:
    return not isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL))


def _checked(answer: httpx.Response) -> httpx.Response:
    """Return an answer that is not an error.

    Raises:
        NoSuchJobError: the server does not know the job.
        ServerError: it refuses for another reason.
    """
    if not answer.is_error:
        return answer
    try:
        problem = msgspec.json.decode(answer.content)
        code, message = problem["code"], problem["message"]
    except (msgspec.MsgspecError, LookupError, TypeError):
        raise ServerError(
            _("the server answered {status}").format(status=answer.status_code)
        ) from None
    if answer.status_code == _NOT_FOUND:
        raise NoSuchJobError(sentence(code, message))
    refused = _("the server refused: {code}: {message}")
    raise ServerError(refused.format(code=code, message=sentence(code, message)))
