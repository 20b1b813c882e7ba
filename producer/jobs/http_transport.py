"""A job over HTTP, by way of a `producer serve`: bytes up, records down, no Redis at hand."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from producer.backend.queue_problems import lost_sentence
from producer.errors import NoWorkerError, ServerError
from producer.jobs.chunks import Loaded, grouped, with_bytes
from producer.jobs.http_client import HttpClient
from producer.jobs.options import JobRequest, TagSource
from producer.jobs.own_labels import labels_of
from producer.jobs.run import Echo, Total
from producer.sources.scan import Image
from worker.contract.failures import CANCELLED
from worker.contract.i18n import gettext as _
from worker.contract.messages import Failure, Record
from worker.contract.stores.jobs import LOST, MESSAGE_LOST

UPLOAD_IMAGES: Final = 8
UPLOAD_BYTES: Final = 16 * 1024 * 1024
STOP_TIMEOUT_S: Final = 1.0
_LOOK_AGAIN_S: Final = 1.5
_LOOKS_AGAIN: Final = 2
# Of images that a server has no record of, in the order in which they are looked for.
_SENTENCES: Final = {
    MESSAGE_LOST: "its message left the queue without a result (purged, revoked or deleted)",
    CANCELLED: "the job was cancelled",
    LOST: "there is no result of its chunk",
}


class HttpTransport:
    """Carries one job to a server: uploads in a thread of its own, reads records in the caller's.

    The server answers "full" while it holds as many images of the job as it may: that is the
    back-pressure.
    """

    def __init__(self, http: HttpClient, max_file_bytes: int) -> None:
        self._http = http
        self._max_file_bytes = max_file_bytes
        self._unread: deque[Record] = deque()
        # Paths that were uploaded and have no record yet.
        self._open: dict[str, None] = {}
        self._stopping = threading.Event()
        self._uploads: threading.Thread | None = None
        self._error: BaseException | None = None
        self._job = ""
        self._echo: Echo = lambda _: None
        self._is_full_said = False
        self._ended = False
        self.images = 0
        self.sent_all = False
        http.on_wait = self._say_full

    def check_worker(self, request: JobRequest, echo: Echo, *, waits: bool) -> TagSource:
        """Look who will do the work; see `Transport.check_worker`."""
        self._echo = echo
        workers = self._http.workers()
        for _again in range(_LOOKS_AGAIN if waits else 0):
            # The server may have looked a moment before the worker was there, or it is very busy.
            if not workers:
                self._stopping.wait(_LOOK_AGAIN_S)
                workers = self._http.workers()
        if not workers:
            if waits:
                msg = _("no worker is online behind {url}").format(url=self._http.url)
                raise NoWorkerError(msg)
            return TagSource("", request.options.labels)
        labels_of(request.pack, workers[0], echo)
        echo(_("tagging with {model} over HTTP").format(model=workers[0].model))
        return TagSource(workers[0].model, request.options.labels)

    def create(self, request: JobRequest) -> str:
        """Begin a job and return its id; nothing is sent yet."""
        self._job = self._http.create(request)
        return self._job

    def start(self, images: Iterable[Image], total: Total, echo: Echo) -> None:  # noqa: ARG002
        """Begin to send."""
        self._echo = echo
        self._uploads = threading.Thread(
            target=self._run, args=[images], name="uploads", daemon=True
        )
        self._uploads.start()

    def records(self) -> Iterator[list[Record]]:
        """Yield the records as they come; of files that cannot be read here, too."""
        for records in self._http.records(self._job):
            for record in records:
                self._open.pop(record.path, None)
            yield [*self._failures(), *records]
        self._join()
        if self._open:
            yield self._lost()
        if failures := list(self._failures()):
            yield failures
        self._ended = True

    def drain(self) -> None:
        """Return when all is sent, and leave the results where they are."""
        if self._uploads is not None:
            self._uploads.join()
        self._join()
        self._ended = True

    def end(self) -> None:
        """Stop the uploads; let the server drop what has not been tagged."""
        if self._ended:
            return
        self._stopping.set()
        self._http.cancel(self._job)
        if self._uploads is not None:
            self._uploads.join(STOP_TIMEOUT_S)

    def _join(self) -> None:
        if self._uploads is not None:
            self._uploads.join()
        if self._error is not None:
            raise self._error

    def _run(self, images: Iterable[Image]) -> None:
        try:
            for group in grouped(self._readable(images), lambda _: UPLOAD_IMAGES, UPLOAD_BYTES):
                self._open.update(dict.fromkeys(loaded.ref.path for loaded in group))
                if not self._http.upload(self._job, group, self._stopping):
                    return
            self.sent_all = True
        except BaseException as e:  # noqa: BLE001 - raised where the records are read
            self._error = e
        try:
            # Also after an error: the stream of records ends then.
            self._http.close_job(self._job)
        except ServerError as e:
            self._error = self._error or e

    def _readable(self, images: Iterable[Image]) -> Iterator[Loaded]:
        """Yield images with their bytes; those that cannot be read fail here."""
        for image in images:
            self.images += 1
            loaded = with_bytes(image, self._max_file_bytes)
            if loaded.ref.error is None:
                yield loaded
            else:
                self._unread.append(Record.untouched(loaded.ref.path, loaded.ref.error))

    def _say_full(self, reason: str) -> None:
        if not self._is_full_said:
            self._echo(_("waiting: {reason}").format(reason=reason))
        self._is_full_said = True

    def _lost(self) -> list[Record]:
        """Return the records of images that the server has none of; it says why."""
        codes = self._http.job(self._job)["codes"]
        code = next((one for one in _SENTENCES if codes.get(one)), LOST)
        if code == MESSAGE_LOST:
            self._echo(lost_sentence(self._job, len(self._open)))
        failure = Failure(code, "job", _SENTENCES[code])
        return [Record.untouched(path, failure) for path in self._open]

    def _failures(self) -> Iterator[Record]:
        while self._unread:
            yield self._unread.popleft()
