"""Requests to a `producer serve`: its HTTP API as methods."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import httpx2 as httpx
import msgspec

from producer.errors import ServerError
from producer.jobs.chunks import Loaded
from producer.jobs.http_answers import (
    REDIS_FULL,
    REDIS_FULL_PAUSE_S,
    ServerWait,
    checked,
    problem_in,
    said,
)
from producer.jobs.http_lines import RecordLines
from producer.jobs.options import JobRequest
from worker.contract.codec import decode, encode
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.reasons import reason
from worker.contract.redis.retry import RetryPolicy
from worker.contract.worker_info import WorkerInfo

# Reading may take long: a server that waits for results sends nothing meanwhile.
_TIMEOUT: Final = httpx.Timeout(600.0, connect=5.0)
_CANCEL_TIMEOUT: Final = httpx.Timeout(5.0)
_FULL: Final = 429
_FULL_PAUSE_S: Final = 0.3
# How often a stream of records is opened again before the job fails.
_RETRIES: Final = 4
_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL)
_STREAM_ERRORS: Final = (*_ERRORS, ServerError)


class HttpClient:
    """A server and its API key. Closed by its `with` block; may be used by several threads."""

    def __init__(self, url: str, api_key: str, retry_timeout_s: float = 0.0) -> None:
        """Take where it is; a server that asks to wait is asked again for `retry_timeout_s`."""
        self.url: Final = url.rstrip("/")
        self._retry_timeout_s = retry_timeout_s
        # Is called with why a server is waited for.
        self.on_wait: Callable[[str], object] = lambda _: None
        self._client = httpx.Client(
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=_TIMEOUT,
            # The address is that of a neighbour: no proxy of the environment knows it.
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are online behind the server, as far as it tells of them.

        Raises:
            ServerError: nobody answers.
        """
        found = self._ask("GET", "/health")["workers"]
        # Servers of earlier versions do not say whether there are labels.
        return [msgspec.convert({"has_labels": True} | one, WorkerInfo) for one in found]

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
    ) -> bool:
        """Send images to an open job, as soon as the server takes them; False if it is to stop.

        Raises:
            ServerError: the server is gone, or refuses.
        """
        names = encode([{"path": one.ref.path, "stamp": one.ref.stamp} for one in images])
        files = [("images", (str(n), one.data)) for n, one in enumerate(images)]
        while not stopping.is_set():
            path = f"{_place(job)}/images"
            data = {"names": names.decode()}
            answer = self._send("POST", path, sleep=stopping.wait, data=data, files=files)
            if answer.status_code != _FULL:
                checked(answer)
                return True
            problem = problem_in(answer)
            if problem.get("code") == REDIS_FULL:
                self.on_wait(said(answer, problem))
                stopping.wait(REDIS_FULL_PAUSE_S)
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
        with RecordLines(self._client, url, self._wait, follow=follow) as lines:
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
        return msgspec.json.decode(checked(self._send(method, path, **more)).content)

    def _send(
        self,
        method: str,
        path: str,
        *,
        sleep: Callable[[float], object] = time.sleep,
        **more: Any,
    ) -> httpx.Response:
        wait = self._wait()
        while True:
            try:
                answer = self._client.request(method, f"{self.url}{path}", **more)
            except _ERRORS as e:
                raise self._unreachable(e) from e
            if not (pause_s := wait.pause_s(answer)):
                return answer
            if sleep(pause_s):
                return answer  # It is to stop.

    def _wait(self) -> ServerWait:
        return ServerWait(self._retry_timeout_s, self.on_wait)

    def _unreachable(self, error: Exception) -> ServerError:
        why = reason(str(error) or type(error).__name__)
        return ServerError(_("no answer from {url}: {reason}").format(url=self.url, reason=why))


def _place(job: str) -> str:
    """Return where a job is at a server, whatever its id holds."""
    return f"/jobs/{quote(job, safe='', errors='backslashreplace')}"


def _is_away(error: Exception) -> bool:
    return not isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL))
