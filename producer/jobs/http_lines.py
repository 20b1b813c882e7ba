"""A response of a `producer serve` -> its lines, opened again after it broke or had to wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

import httpx2 as httpx

from producer.errors import ServerError
from producer.jobs.http_answers import ServerWait, checked


class RecordLines:
    """Lines of a response, opened when it is first read and again after it broke."""

    def __init__(
        self, client: httpx.Client, url: str, wait: Callable[[], ServerWait], *, follow: bool
    ) -> None:
        self._client = client
        self._url = url
        self._begin_wait = wait
        self._wait: ServerWait | None = None
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
        # However often it is opened until it is there.
        wait = self._wait = self._wait or self._begin_wait()
        while True:
            response = self._client.stream("GET", self._url, params=params)
            answer = self._stack.enter_context(response)
            if not answer.is_error:
                self._wait = None
                return answer.iter_bytes()
            answer.read()
            if not (pause_s := wait.pause_s(answer)):
                return checked(answer).iter_bytes()
            self._stack.close()
            time.sleep(pause_s)
