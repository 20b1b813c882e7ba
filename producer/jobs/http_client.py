"""One `submit` by way of an HTTP door: bytes up, records down, no Redis at hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
import urllib3
from rich.console import Console

from producer.console.progress import Tally, progress
from producer.console.tables import Summary
from producer.formats import Sink
from producer.jobs.feeder import read_image, reference
from producer.jobs.resume import TagSource
from producer.jobs.run import NoWorkerError, Request
from producer.sources.scan import Image
from worker.contract.codec import decode, encode
from worker.contract.i18n import gettext as _
from worker.contract.messages import Failure, ImageRef, Record

UPLOAD_IMAGES: Final = 8
UPLOAD_BYTES: Final = 16 * 1024 * 1024
_TIMEOUT: Final = urllib3.Timeout(connect=5.0, read=600.0)
_FULL: Final = 429
_FULL_PAUSE_S: Final = 0.3
_TRIES: Final = 5
_PAUSE_S: Final = 1.0


class ServerError(RuntimeError):
    """The door does not answer, or refuses."""


class HttpJobRunner:
    """A job behind a door: uploads in one thread, writes in another."""

    def __init__(self, request: Request, door: str, key: str, console: Console) -> None:
        self._request = request
        self._base = door.rstrip("/")
        self._http = urllib3.PoolManager(headers={"X-API-Key": key}, retries=False)
        self._console = console
        self._error: BaseException | None = None
        self._unread: list[Record] = []
        self._sent_all = False
        self.images = 0
        self.tally = Tally()
        self.job = ""

    def check_worker(self) -> TagSource:
        """Look who will do the work.

        Raises:
            ServerError: nobody answers.
            NoWorkerError: no worker is online.
        """
        workers = self._ask("GET", "/health")["workers"]
        if not workers:
            msg = _("no worker is online behind {url}").format(url=self._base)
            raise NoWorkerError(msg)
        return TagSource(workers[0]["model"], self._request.labels)

    def tag(
        self, images: Iterable[Image], max_bytes: int, sink: Sink, echo: Callable[[str], None]
    ) -> None:
        """Send every image and write each record as it comes.

        Raises:
            ServerError: the door is gone, or refuses.
        """
        self.job = self._ask("POST", "/jobs", json=self._options())["id"]
        summary, self.tally = Summary(), Tally()
        uploads = threading.Thread(target=self._live, args=(images, max_bytes), daemon=True)
        uploads.start()
        with progress(self._console, self.tally) as shown:
            for record in self._records():
                sink.write(record)
                sink.flush()
                self.tally.add([record])
                summary.add([record])
                shown.update(self.images if self._sent_all else None)
        uploads.join()
        if self._error is not None:
            raise self._error
        summary.show(self._console)
        echo(str(self.tally))

    def cancel(self) -> None:
        """Let the door forget what has not been tagged."""
        if self.job:
            self._ask("DELETE", f"/jobs/{self.job}")

    def _options(self) -> dict[str, Any]:
        pack = self._request.pack
        return {
            "open": True,
            "labels": pack.labels,
            "templates": pack.templates,
            "aliases": pack.aliases,
            "parents": pack.parents,
            "calibrated": pack.calibrated,
            "background": pack.background,
            "top_k": self._request.top_k,
            "threshold": self._request.threshold,
            "embeddings": self._request.embeddings,
            "thumbnail_px": self._request.thumbnail_px,
        }

    def _live(self, images: Iterable[Image], max_bytes: int) -> None:
        try:
            for some in self._loads(images, max_bytes):
                self._upload(some)
            self._sent_all = True
        except BaseException as e:  # noqa: BLE001 - raised where the records are written
            self._error = e
        try:
            self._ask("POST", f"/jobs/{self.job}/close")
        except ServerError as e:
            self._error = self._error or e

    def _loads(
        self, images: Iterable[Image], max_bytes: int
    ) -> Iterator[list[tuple[ImageRef, bytes]]]:
        """Yield images with their bytes, some at a time; those that cannot be read fail here."""
        some: list[tuple[ImageRef, bytes]] = []
        for image in images:
            ref = reference(image)
            found = ref.error or read_image(ref, max_bytes)
            self.images += 1
            if isinstance(found, Failure):
                self._unread.append(Record.untouched(ref.path, found))
                continue
            data, stamp = found
            some.append((ImageRef(ref.path, stamp=stamp), data))
            if len(some) >= UPLOAD_IMAGES or sum(len(d) for _, d in some) >= UPLOAD_BYTES:
                yield some
                some = []
        if some:
            yield some

    def _upload(self, some: list[tuple[ImageRef, bytes]]) -> None:
        names = encode([{"path": ref.path, "stamp": ref.stamp} for ref, _ in some]).decode()
        fields: list[tuple[str, Any]] = [("names", names)]
        fields += [("images", (str(n), data)) for n, (_, data) in enumerate(some)]
        while not self._ask("POST", f"/jobs/{self.job}/images", fields=fields, may_be_full=True):
            time.sleep(_FULL_PAUSE_S)

    def _records(self) -> Iterator[Record]:
        """Yield the records as they come; after a broken connection those that are missing."""
        seen: set[str] = set()
        for number in range(_TRIES):
            try:
                for line in self._lines():
                    record = msgspec.convert(decode(line), Record)
                    yield from self._failures()
                    if record.path not in seen:
                        seen.add(record.path)
                        yield record
                break
            except (urllib3.exceptions.HTTPError, ServerError):
                if number == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_S * (number + 1))
        yield from self._failures()

    def _failures(self) -> Iterator[Record]:
        while self._unread:
            yield self._unread.pop()

    def _lines(self) -> Iterator[bytes]:
        address = f"{self._base}/jobs/{self.job}/results?follow=true"
        answer = self._http.request("GET", address, timeout=_TIMEOUT, preload_content=False)
        try:
            if answer.status != 200:  # noqa: PLR2004
                raise ServerError(_words(answer.status, answer.data))
            rest = b""
            for block in answer.stream(65_536):
                *lines, rest = (rest + block).split(b"\n")
                yield from lines
        finally:
            answer.release_conn()

    def _ask(self, method: str, path: str, *, may_be_full: bool = False, **more: Any) -> Any:
        """Return what the door answers; nothing if it is full and may be."""
        try:
            answer = self._http.request(method, f"{self._base}{path}", timeout=_TIMEOUT, **more)
        except urllib3.exceptions.HTTPError as e:
            msg = _("no answer from {url}: {reason}").format(url=self._base, reason=e)
            raise ServerError(msg) from e
        if may_be_full and answer.status == _FULL:
            return None
        if answer.status >= 400:  # noqa: PLR2004
            raise ServerError(_words(answer.status, answer.data))
        return json.loads(answer.data)


def _words(status: int, body: bytes) -> str:
    try:
        told = json.loads(body)
        return _("the server refused: {code}: {message}").format(
            code=told["code"], message=told["message"]
        )
    except (ValueError, LookupError, TypeError):
        return _("the server answered {status}").format(status=status)
