"""A job over Redis: a feeder sends chunks, a collector fetches results, a window bounds both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from producer.arguments import argument
from producer.backend.connection import Connection, job_lost
from producer.backend.queue_problems import full_sentence, lost_sentence
from producer.backend.workers import WorkerInfo
from producer.console.paths import about
from producer.console.worker_command import can_embed, start_worker, unread, way_out
from producer.errors import NoWorkerError
from producer.jobs.collector import Collector, count_lost
from producer.jobs.feeder import Feeder
from producer.jobs.options import JobRequest, TagSource
from producer.jobs.own_labels import labels_of
from producer.jobs.publisher import Stores
from producer.jobs.run import Echo, Total
from producer.jobs.window import Window
from producer.sources.scan import Image
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.stores.jobs import NoSuchJobError

MAX_IMAGES: Final = 20_000
_SAY_AGAIN_S: Final = 60.0
# In blob mode the bytes lie in Redis.
MAX_BLOB_IMAGES: Final = 512
MAX_BLOB_BYTES: Final = 256 * 1024 * 1024


class _Saying:
    """Says a thing at once, and again a minute later if it is still so."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._next_s = float("-inf")

    def __call__(self, sentence: str) -> None:
        if time.monotonic() >= self._next_s:
            self._echo(sentence)
            self._next_s = time.monotonic() + _SAY_AGAIN_S


class RedisTransport:
    """Carries one job at a connection to Redis."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._request: JobRequest
        self._feeder: Feeder
        self._collector: Collector
        self._job = ""
        self._labels = 0
        self._echo: Echo = lambda _: None
        self._is_loss_said = False

    def check_worker(self, request: JobRequest, echo: Echo, *, waits: bool) -> TagSource:
        """Look who will do the work; see `Transport.check_worker`."""
        worker = self._connection.first_worker(asks_twice=waits)
        if worker is None:
            message = self._no_worker(request, may_embed=waits and can_embed())
            if waits:
                raise NoWorkerError(message)
            echo(_("note: {note}").format(note=message))
            return TagSource("", request.options.labels)
        self._labels = labels_of(request.pack, worker, echo)
        if worker.notice:
            echo(_("note: {note}").format(note=_(worker.notice)))
        self._note_unread(request, worker, echo)
        self._check_labels(request, worker, echo)
        if waits:
            echo(
                _("tagging with {model} on {device}").format(
                    model=worker.model, device=worker.device
                )
            )
        return TagSource(worker.model, request.options.labels)

    def _no_worker(self, request: JobRequest, *, may_embed: bool) -> str:
        settings = self._connection.settings
        command = start_worker(settings, request.places, as_blobs=request.options.as_blobs)
        message = _("no worker is online at {url}; start one with: {command}")
        if may_embed:
            message = _(
                "no worker is online at {url}; start one with: {command} (or let one be started "
                "for this alone: {embedded})"
            )
        return message.format(
            url=settings.broker_url, command=command, embedded=argument("embedded")
        )

    def _check_labels(self, request: JobRequest, worker: WorkerInfo, echo: Echo) -> None:
        """Refuse labels that the model cannot tell apart, and say which it knows only in part.

        Raises:
            LabelsError: there are such.
        """
        for warning in self._connection.check_labels(request.pack, worker):
            echo(_("note: {note}").format(note=warning))

    def _note_unread(self, request: JobRequest, worker: WorkerInfo, echo: Echo) -> None:
        """Say if workers may not read some of what is to be tagged: images of it would fail."""
        if request.options.as_blobs or not (hidden := unread([worker], request.places)):
            return
        message = _(
            "note: {worker} may not read {paths}, though others may: images that it takes will "
            "fail, so start all workers with: {command}"
        )
        if by_all := unread(self._connection.workers(), hidden):
            hidden = by_all
            message = _(
                "note: no online worker may read {paths}, unless under another path: start "
                "one with: {command}"
            )
        command = way_out(self._connection.settings, hidden)
        echo(message.format(worker=worker.name, paths=about(hidden), command=command))

    def create(self, request: JobRequest) -> str:
        """Begin a job and return its id; nothing is sent yet."""
        connection = self._connection
        self._request = request
        labels, priority = self._labels or len(request.pack.labels), request.options.priority
        self._job = connection.jobs.create(about(request.places), labels, priority).id
        if request.options.labels:
            connection.labels.put(request.pack)
        return self._job

    def start(self, images: Iterable[Image], total: Total, echo: Echo) -> None:
        """Begin to send."""
        self._echo = echo
        options = self._request.options
        window = Window(MAX_BLOB_IMAGES if options.as_blobs else MAX_IMAGES, MAX_BLOB_BYTES)
        self._feeder = self._feeder_of(images, total, window)
        self._collector = self._collector_of(window)
        self._feeder.start()

    def _feeder_of(self, images: Iterable[Image], total: Total, window: Window) -> Feeder:
        connection = self._connection
        return Feeder(
            self._job,
            images,
            self._request.options,
            Stores(connection.app, connection.jobs, connection.blobs, connection.memory),
            window,
            total=total,
            max_file_bytes=connection.settings.max_file_bytes,
            retry_timeout_s=float(connection.settings.redis_retry_timeout_s),
        )

    def _collector_of(self, window: Window) -> Collector:
        """Return the collector; it says why nothing comes, or nothing is sent."""
        connection, echo = self._connection, self._echo
        say_full, lost = _Saying(echo), connection.loss_watch(self._job)

        def is_feeding() -> bool:
            connection.check()
            if self._feeder.is_held_up:
                say_full(full_sentence(connection.memory.percent))
            return self._feeder.check()

        def stalled() -> None:
            if reason := connection.stall_reason(self._job):
                echo(_("waiting: {reason}").format(reason=reason))

        def still() -> None:
            if sentence := lost():
                self._is_loss_said = True
                echo(sentence)

        return Collector(
            connection.jobs,
            self._job,
            window,
            is_feeding,
            on_still=still,
            on_stall=stalled,
            is_held_up=lambda: self._feeder.is_held_up,
            retry_timeout_s=float(connection.settings.redis_retry_timeout_s),
        )

    def records(self) -> Iterator[list[Record]]:
        """Yield the records as chunks finish; see `Transport.records`."""
        lost = 0
        with self._known():
            for records in self._collector.records():
                lost += count_lost(records)
                yield records
        if lost and not self._is_loss_said:
            self._echo(lost_sentence(self._job, lost))

    def drain(self) -> None:
        """Return when all is sent, and leave the results where they are."""
        with self._known():
            self._collector.drain()

    @contextmanager
    def _known(self) -> Iterator[None]:
        """Say that the job is lost if Redis does not know it, whoever finds out."""
        try:
            yield
        except NoSuchJobError as e:
            raise job_lost(self._job) from e

    @property
    def images(self) -> int:
        """How many images have been sent."""
        return self._feeder.images

    @property
    def sent_all(self) -> bool:
        """Whether no more will be sent."""
        return self._feeder.sent_all

    def end(self) -> None:
        """Stop the feeder, and mark a job that was not sent as a whole."""
        self._feeder.stop()
        if not self._feeder.sent_all:
            self._connection.try_set_state(self._job, "interrupted")
