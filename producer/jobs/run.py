"""One `submit`: images -> queue -> results -> sink, with its words to the user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

import msgspec
from rich.console import Console

from producer.backend.connection import Connection
from producer.backend.workers import WorkerInfo
from producer.console.paths import about, printable
from producer.console.progress import Tally, progress
from producer.console.tables import Summary
from producer.console.worker_command import can_embed, start_worker, unread
from producer.formats import Sink
from producer.jobs.collector import Collector
from producer.jobs.feeder import Feeder, JobOptions
from producer.jobs.publisher import Stores
from producer.jobs.resume import TagSource
from producer.jobs.window import Window
from producer.sources.scan import STANDARD_INPUT, Image, count_images, scan
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack

MAX_IMAGES: Final = 20_000
# In blob mode the bytes lie in Redis.
MAX_BLOB_IMAGES: Final = 512
MAX_BLOB_BYTES: Final = 256 * 1024 * 1024

Echo = Callable[[str], None]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for."""

    paths: tuple[str, ...]
    pack: LabelPack
    top_k: int
    threshold: float
    as_blobs: bool
    chunk_images: int | None
    embeddings: bool = False
    thumbnail_px: int = 0
    about: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Where the images are, as far as that is known."""
        return (self.about,) if self.about else self.paths

    @property
    def labels(self) -> str | None:
        """The hash of the labels, or None for the model's own."""
        return self.pack.hash if self.pack != LabelPack() else None


class NoWorkerError(RuntimeError):
    """Nobody is there to do the work."""


class NoImagesError(ValueError):
    """The paths hold no image."""


class LabelsNeededError(ValueError):
    """The model has no labels of its own, and none were given."""


def find_images(words: tuple[str, ...], echo: Echo) -> Iterator[Image]:
    """Return the images that the words mean, after a look that there is one.

    Raises:
        NoImagesError: there is none.
    """

    def skipped(directory: str, error: OSError) -> None:
        echo(
            _("skipped: {directory} cannot be listed: {reason}").format(
                directory=printable(directory), reason=error.strerror
            )
        )

    images = scan(words, skipped)
    first = next(images, None)
    if first is None:
        msg = _("no image found in {paths}").format(paths=", ".join(map(printable, words)))
        raise NoImagesError(msg)
    return chain([first], images)


class JobRunner:
    """A job under way: sends, collects, writes, and tells the user how it goes."""

    def __init__(
        self,
        request: Request,
        console: Console,
        echo: Echo,
        on_begin: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take what is to be done; `on_begin` hears the id of the job."""
        self._on_begin = on_begin
        self._request = request
        self._console = console
        self._echo = echo
        self._counter = _Counter(request.paths)
        self.tally = Tally()
        self.job = ""

    def check_worker(self, connection: Connection, *, waits: bool) -> TagSource:
        """Look who will do the work, before any is sent; return what will make the tags.

        Raises:
            NoWorkerError: we are to wait for results, and nobody is online.
            LabelsNeededError: the model cannot do without labels.
        """
        worker = connection.worker
        if worker is None:
            words = self._nobody(connection, may_embed=waits and can_embed())
            if waits:
                raise NoWorkerError(words)
            self._echo(_("note: {note}").format(note=words))
            return TagSource("", self._request.labels)
        if not worker.has_labels and not self._request.pack.labels:
            msg = _(
                "model {model} has no labels of its own: give --labels FILE or --label TEXT"
            ).format(model=worker.model)
            raise LabelsNeededError(msg)
        if worker.notice:
            self._echo(_("note: {note}").format(note=worker.notice))
        self._tell_of_unread(connection, worker)
        if waits:
            self._echo(
                _("tagging with {model} on {device}").format(
                    model=worker.model, device=worker.device
                )
            )
        return TagSource(worker.model, self._request.labels)

    def _nobody(self, connection: Connection, *, may_embed: bool) -> str:
        broker = connection.settings.broker_url
        command = start_worker(
            connection.settings, self._request.places, as_blobs=self._request.as_blobs
        )
        if may_embed:
            return _(
                "no worker is online at {url}; start one with: {command} (or let this "
                "command start its own: --embedded)"
            ).format(url=broker, command=command)
        return _("no worker is online at {url}; start one with: {command}").format(
            url=broker, command=command
        )

    def _tell_of_unread(self, connection: Connection, worker: WorkerInfo) -> None:
        """Say if nobody may read some of what is to be tagged: each image of it would fail."""
        places = self._request.places
        if self._request.as_blobs or not unread([worker], places):
            return
        if hidden := unread(connection.workers(), places):
            command = start_worker(connection.settings, hidden)
            self._echo(
                _(
                    "note: no online worker may read {paths}, unless under another path: start "
                    "one with: {command} (or submit with --blobs)"
                ).format(paths=about(hidden), command=command)
            )

    def send(self, connection: Connection, images: Iterable[Image]) -> int:
        """Send every image without waiting for results; return how many."""
        feeder, collector = self._begin(connection, images)
        try:
            collector.drain()
        finally:
            self._leave(connection, feeder)
        return feeder.images

    def tag(self, connection: Connection, images: Iterable[Image], sink: Sink) -> None:
        """Send every image and write each result to `sink` as it comes."""
        summary, self.tally = Summary(), Tally()
        feeder, collector = self._begin(connection, images)
        try:
            with progress(self._console, self.tally) as shown:
                for records in collector.records():
                    for record in records:
                        sink.write(record)
                    sink.flush()
                    self.tally.add(records)
                    summary.add(records)
                    shown.update(feeder.images if feeder.sent_all else self._counter.total)
        finally:
            self._leave(connection, feeder)
        summary.show(self._console)
        self._echo(str(self.tally))

    def _begin(self, connection: Connection, images: Iterable[Image]) -> tuple[Feeder, Collector]:
        request = self._request
        self._counter.start()
        self.job = connection.jobs.create(about(request.places), len(request.pack.labels)).id
        self._on_begin(self.job)
        options = JobOptions(
            job=self.job,
            labels=connection.labels.put(request.pack) if request.labels else None,
            top_k=request.top_k,
            threshold=request.threshold,
            chunk_images=request.chunk_images,
            as_blobs=request.as_blobs,
            embeddings=request.embeddings,
            thumbnail_px=request.thumbnail_px,
            max_bytes=connection.settings.max_file_bytes,
        )
        window = Window(MAX_BLOB_IMAGES if request.as_blobs else MAX_IMAGES, MAX_BLOB_BYTES)
        stores = Stores(connection.app, connection.jobs, connection.blobs)
        retry_timeout_s = float(connection.settings.redis_retry_timeout_s)

        def is_feeding() -> bool:
            connection.check()
            return feeder.check()

        def stalled() -> None:
            if words := connection.stall_reason(self.job):
                self._echo(_("waiting: {reason}").format(reason=words))

        feeder = Feeder(
            images,
            options,
            stores,
            window,
            lambda: self._counter.total,
            retry_timeout_s=retry_timeout_s,
        )
        feeder.start()
        collector = Collector(
            connection.jobs,
            self.job,
            window,
            is_feeding,
            on_stall=stalled,
            retry_timeout_s=retry_timeout_s,
        )
        return feeder, collector

    def _leave(self, connection: Connection, feeder: Feeder) -> None:
        feeder.stop()
        if not feeder.sent_all:
            connection.try_set_state(self.job, "interrupted")


class _Counter:
    """Counts the images in a thread of its own, so that the time left is known early."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.total: int | None = None
        self._paths = paths

    def start(self) -> None:
        """Begin to count, unless it is a list on standard input, which can be read but once."""
        if STANDARD_INPUT not in self._paths:
            threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        self.total = count_images(self._paths)
