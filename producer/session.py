"""One `submit` from start to end: scan -> queue -> results -> sink, with its words to the user."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from celery import Celery
from rich.console import Console

from producer.collect import Collector
from producer.local import LocalWorker
from producer.progress import Tally, progress
from producer.report import Summary
from producer.scan import STANDARD_INPUT, scan
from producer.sinks import Sink
from producer.submit import Feeder, Order, Post
from producer.window import Window
from producer.workers import WorkerInfo, online
from worker.contract.blobs import BlobStore
from worker.contract.broker import BrokerUnreachableError, connect, make_app, patient_client
from worker.contract.embedded import EmbeddedRedis
from worker.contract.jobs import JobStore
from worker.contract.labels import LabelPack, LabelStore
from worker.contract.settings import Settings, mask

ONLINE_TIMEOUT_S: Final = 2.5
MAX_IMAGES: Final = 20_000
# In blob mode the bytes lie in Redis.
MAX_BLOB_IMAGES: Final = 512
MAX_BLOB_BYTES: Final = 256 * 1024 * 1024


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for."""

    paths: tuple[str, ...]
    pack: LabelPack
    top_k: int
    threshold: float
    as_blobs: bool
    chunk_images: int
    embedded: bool
    model: str | None


class NoWorkerError(RuntimeError):
    """Nobody is there to do the work."""


class NoImagesError(ValueError):
    """The paths hold no image."""


class LabelsNeededError(ValueError):
    """The model has no labels of its own, and none were given."""


class Desk:
    """Redis, and a worker to do the work: the user's, or private ones of this command."""

    def __init__(self, settings: Settings, app: Celery, local: LocalWorker | None) -> None:
        self.settings = settings
        self.app = app
        self._local = local
        client = patient_client(settings.broker_url)
        self.jobs = JobStore(
            client, settings.result_ttl_s, results=patient_client(settings.results)
        )
        self.blobs = BlobStore(client, settings.result_ttl_s)
        self.labels = LabelStore(client)

    @property
    def worker(self) -> WorkerInfo | None:
        """The first worker that answers, if one does in time."""
        if self._local:
            return self._local.info
        return next(iter(online(self.app, ONLINE_TIMEOUT_S, limit=1)), None)

    def check(self) -> None:
        """Raise EmbeddedError if a worker of our own has ended."""
        if self._local:
            self._local.check()


@contextmanager
def open_desk(
    settings: Settings, *, embedded: bool = False, model: str | None = None
) -> Iterator[Desk]:
    """Yield a desk at the broker of the settings, or a private one that vanishes with the block.

    Raises:
        BrokerUnreachableError: Redis does not answer.
        EmbeddedError: the private server or worker does not come up.
    """
    if not embedded:
        connect(settings.broker_url).close()
        yield Desk(settings, make_app(settings, stores_results=False), None)
        return
    with EmbeddedRedis() as server:
        private = msgspec.structs.replace(settings, broker_url=server.url, result_url="")
        app = make_app(private, stores_results=False)
        with LocalWorker(app, model) as local:
            yield Desk(private, app, local)


class Session:
    """A job under way: sends, collects, writes, and tells the user how it goes."""

    def __init__(self, request: Request, desk: Desk, console: Console) -> None:
        self._request = request
        self._desk = desk
        self._console = console
        self.tally = Tally()
        self.job = ""

    def greet(self, *, waits: bool) -> None:
        """Look who will do the work, before any is sent.

        Raises:
            NoWorkerError: we are to wait for results, and nobody is online.
            LabelsNeededError: the model cannot do without labels.
        """
        worker, broker = self._desk.worker, mask(self._desk.settings.broker_url)
        if worker is None:
            words = f"no worker is online at {broker}; start one with: worker start --broker URL"
            if waits:
                raise NoWorkerError(words)
            self._say(f"note: {words}")
            return
        if not worker.has_labels and not self._request.pack.labels:
            msg = (
                f"model {worker.model} has no labels of its own: give --labels FILE or --label TEXT"
            )
            raise LabelsNeededError(msg)
        if worker.notice:
            self._say(f"note: {worker.notice}")

    def send(self) -> int:
        """Send every image without waiting for results; return how many."""
        feeder, window = self._feed()
        try:
            self._collector(feeder, window).drain()
        finally:
            feeder.stop()
        return self._sent(feeder)

    def tag(self, sink: Sink) -> None:
        """Send every image and write each result to `sink` as it comes."""
        feeder, window = self._feed()
        summary, counter = Summary(), _Counter(self._request.paths)
        try:
            with progress(self._console, self.tally) as shown:
                for records in self._collector(feeder, window).records():
                    for record in records:
                        sink.write(record)
                    sink.flush()
                    self.tally.add(records)
                    summary.add(records)
                    shown.update(counter.total)
        finally:
            feeder.stop()
        self._sent(feeder)
        summary.show(self._console)
        self._say(str(self.tally))

    def abandon(self) -> None:
        """Note that no more will come from us, as far as Redis still answers."""
        if self.job:
            self._desk.jobs.set_state(self.job, "interrupted")

    def _feed(self) -> tuple[Feeder, Window]:
        request, desk = self._request, self._desk
        self.job = desk.jobs.create().id
        order = Order(
            job=self.job,
            labels=desk.labels.put(request.pack) if request.pack != LabelPack() else None,
            top_k=request.top_k,
            threshold=request.threshold,
            chunk_images=request.chunk_images,
            as_blobs=request.as_blobs,
            max_bytes=desk.settings.max_bytes,
        )
        images = MAX_BLOB_IMAGES if request.as_blobs else MAX_IMAGES
        window = Window(images, MAX_BLOB_BYTES)
        paths = scan(request.paths, sys.stdin.buffer, self._skipped)
        feeder = Feeder(paths, order, Post(desk.app, desk.jobs, desk.blobs), window)
        feeder.start()
        return feeder, window

    def _collector(self, feeder: Feeder, window: Window) -> Collector:
        def is_feeding() -> bool:
            self._desk.check()
            return feeder.check()

        jobs = self._desk.jobs
        return Collector(jobs, self.job, window, is_feeding, on_stall=self._stalled)

    def _sent(self, feeder: Feeder) -> int:
        if not feeder.images:
            msg = f"no image found in {', '.join(self._request.paths)}"
            raise NoImagesError(msg)
        return feeder.images

    def _stalled(self) -> None:
        try:
            if self._desk.worker is None:
                self._say("waiting: no worker is online; the work is kept in the queue")
        except BrokerUnreachableError as e:
            self._say(f"waiting: {e}")

    def _skipped(self, directory: str, error: OSError) -> None:
        self._say(f"skipped: {directory!r} cannot be listed: {error.strerror}")

    def _say(self, words: str) -> None:
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)


class _Counter:
    """Counts the images in a thread of its own, so that the time left is known early."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.total: int | None = None
        if STANDARD_INPUT not in paths:  # A list on standard input can be read but once.
            threading.Thread(target=self._count, args=(paths,), daemon=True).start()

    def _count(self, paths: tuple[str, ...]) -> None:
        ignore: Callable[[str, OSError], None] = lambda *_: None  # noqa: E731 - the feeder tells
        self.total = sum(1 for _ in scan(paths, sys.stdin.buffer, ignore))
