"""The Python API: images -> records, by workers at a Redis or behind a `producer serve`.

    with Client("redis://localhost:6379/0") as client:
        for record in client.tag(["photos/"], labels=["猫", "狗"], calibrated=True):
            print(record.path, [tag.label for tag in record.tags], record.error)

The command `producer` is built on it. Nothing is printed: what a person should know goes to
`on_note`, by default the logger `producer`. All errors are a `ProducerError`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, Unpack
from weakref import WeakSet

from producer.errors import UsageError, raises_producer_errors
from producer.formats.output import Output
from producer.jobs.arguments import check_label_options, check_labels, check_writing
from producer.jobs.labels import Labels
from producer.jobs.links import HttpLink, Link, RedisLink
from producer.jobs.options import JobRequest
from producer.jobs.resume import ResumeState
from producer.jobs.run import JobRunner, find_images
from producer.jobs.stream import RecordStream
from producer.jobs.tag_options import (
    Images,
    LabelOptions,
    TagOptions,
    pack_of,
    paths_of,
    request_for,
    threshold_of,
)
from producer.jobs.tagging import Batches, Writing, prepare_and_tag, tag
from producer.sources.scan import Image
from worker.contract.extras import need
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.settings import Settings
from worker.contract.stores.jobs import Job

if TYPE_CHECKING:
    from producer.backend.connection import Connection
    from producer.embeddings.ranking import Hit
    from producer.monitoring.status import State

_log: Final = logging.getLogger("producer")
_SERVERS: Final = ("http://", "https://")


class Client:
    """Tags images; a context manager, entered once. May be used by one thread at a time.

    Leaving the block closes all connections, and ends iterations that are still open as Ctrl-C ends
    the command: no more is sent; what was sent will still be tagged.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        prefix: str | None = None,
        on_note: Callable[[str], object] = _log.info,
    ) -> None:
        """Take where the workers are: at a Redis, or behind a `producer serve` with its API key.

        Args:
            url: `redis://`, `rediss://`, `http://` or `https://`; else WANWU_BROKER_URL.
            api_key: That of a `producer serve`; else WANWU_API_KEY.
            prefix: That of the workers' names in Redis; else WANWU_PREFIX.
            on_note: Is called with sentences for a person, such as what is waited for.

        Raises:
            UsageError: the URL, or a setting, has a value that cannot be used.
        """
        self._on_note = on_note
        self._server: Final = url if url and url.startswith(_SERVERS) else ""
        with raises_producer_errors():
            broker_url = None if self._server else url
            self.settings: Final = Settings.from_env(
                broker_url=broker_url, api_key=api_key, prefix=prefix
            )
        self._embedded, self._model = False, ""
        self._stack = ExitStack()
        self._open_link: Link | None = None
        self._streams: WeakSet[RecordStream] = WeakSet()

    @classmethod
    def embedded(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        on_note: Callable[[str], object] = _log.info,
    ) -> Self:
        """Return a client with a Redis and a worker of its own, which end with its block.

        Args:
            model: An artifact, or a Hugging Face directory or id; else the one that is bundled.
            on_note: As that of `Client`.
        """
        client = cls(on_note=on_note)
        client._embedded, client._model = True, "" if model is None else os.fspath(model)
        return client

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            UnavailableError: Redis does not answer or cannot be used, or nothing can be started.
            UsageError: the client is open already.
        """
        if self._open_link is not None:
            raise UsageError(_("the client is open already"))
        with raises_producer_errors():
            if self._server:
                http = HttpLink(self.settings, self._server)
                self._open_link = self._stack.enter_context(http)
            else:
                model, note = self._model or None, self._on_note
                at_redis = RedisLink(self.settings, model, note, embedded=self._embedded)
                self._open_link = self._stack.enter_context(at_redis)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for stream in list(self._streams):
                stream.close()
        finally:
            self._open_link = None
            # The connection may know more about what went wrong.
            self._stack.__exit__(kind, error, trace)

    def tag(
        self,
        images: Images,
        labels: Labels = None,
        *,
        out: str | os.PathLike[str] | None = None,
        out_format: str | None = None,
        resume: bool = False,
        retry_failed: bool = False,
        overwrite: bool = False,
        **options: Unpack[TagOptions],
    ) -> RecordStream:
        """Tag images: return an iterator of their records, one of each, in the order they come.

        Work begins when the first record is asked for. Some 20,000 images are under way at most
        (512 as blobs): taking records slowly slows the sending down.

        Args:
            images: Files, directories, patterns, URLs, archives. An iterator is gone through while
                images are sent; each of its items names one file or URL.
            labels: Texts, the `Path` of a label file, or a `LabelPack`; else the model's own.
            out: File or URL to which records are written as well, before they are yielded.
            out_format: Format of that file, else by its ending; or `xmp`, without `out`: sidecars
                have no tags below 0.5 unless there is a `threshold`.
            resume: Go on with what `out` holds: images that are done there are passed over.
            retry_failed: With `resume`, try images again that failed before.
            overwrite: Replace what `out` holds.
            **options: See `TagOptions`.

        Raises:
            UsageError: the arguments cannot be used. The iterator raises all other errors.
        """
        with raises_producer_errors():
            paths, listed = paths_of(images)
            request = request_for(paths, labels, options)
            threshold = options.get("threshold")
            output = Output.at(None if out is None else os.fspath(out), out_format, threshold)
            writing = Writing(output, resume, retry_failed, overwrite)
            check_writing(writing, options)
        runner = self.runner(request)
        note, jobs = self._on_note, self._link.jobs
        find = partial(find_images, paths, note) if listed is None else lambda: listed
        return self._stream(runner, prepare_and_tag(runner, find, writing, jobs, note))

    def submit(self, images: Images, labels: Labels = None, **options: Unpack[TagOptions]) -> str:
        """Send images and return the id of their job, without waiting for results.

        Above 20,000 images (512 as blobs), workers must make room first. The arguments are those of
        `tag`; the records are fetched by `results`, within a day.

        Raises:
            ProducerError: what stands in the way.
        """
        with raises_producer_errors():
            paths, listed = paths_of(images)
            runner = self.runner(request_for(paths, labels, options))
            found = find_images(paths, self._on_note) if listed is None else listed
            runner.check_worker(waits=False)
            runner.send(found)
        return runner.job

    def results(self, job: str, *, wait: bool = False, drop: bool = False) -> Iterator[Record]:
        """Yield the records of a job that are there so far, or all that are kept once it is done.

        Of jobs whose records were taken by `tag`, those of the last 10,000 images are kept. With
        `drop`, results are deleted from Redis some time after their records were taken.

        Raises:
            NoSuchJobError: there is no such job, or no more.
        """
        if wait:
            self.wait(job)
        with raises_producer_errors():
            for records in self._link.results(job, drops=drop):
                yield from records

    def wait(self, job: str) -> None:
        """Return when a job is finished.

        Raises:
            NoSuchJobError: there is no such job, or no more.
        """
        with raises_producer_errors():
            self._link.wait(job, self._on_note)

    def job(self, job: str) -> Job:
        """Return how far a job is.

        Raises:
            NoSuchJobError: there is no such job, or no more.
        """
        with raises_producer_errors():
            return self._link.job(job)

    def cancel(self, job: str) -> Job:
        """Cancel a job and return it: its images that wait fail with the code `cancelled`.

        A job that is finished stays so.

        Raises:
            NoSuchJobError: there is no such job, or no more.
        """
        with raises_producer_errors():
            return self._link.cancel(job)

    def status(self) -> State:
        """Return all jobs, the workers online, and the dead letters. Takes a second or two.

        Raises:
            UnavailableError: Redis does not answer.
        """
        from producer.monitoring.status import StatusSampler  # noqa: PLC0415 - loads rich

        with raises_producer_errors():
            return StatusSampler(self.connection, None).now()

    def search(
        self, text: str, file: str | os.PathLike[str], *, top: int = 20, model: str | None = None
    ) -> list[Hit]:
        """Return the images of a file of records that are nearest to a text, the nearest first.

        A worker that is online embeds the text; without one, or with a `model`, a process of its
        own does. Needs the extra `parquet`.

        Raises:
            RecordsError: there are no embeddings in the file.
            EncodingError: the text cannot be embedded, or the embeddings are of another model.
        """
        with raises_producer_errors():
            need("parquet")
            from producer.embeddings.search import search_text  # noqa: PLC0415 - loads numpy

            return search_text(Path(file), text, top, model, self.connection.app)

    def retag(
        self,
        file: str | os.PathLike[str],
        labels: Labels,
        out: str | os.PathLike[str],
        *,
        model: str | None = None,
        overwrite: bool = False,
        **options: Unpack[LabelOptions],
    ) -> int:
        """Tag the images of a file of records by other labels; return how many were tagged.

        No image is read: the embeddings in the file are. Records of images that failed are taken
        over as they are. Needs the extra `parquet`, and for the
        labels' own embeddings the extra `worker`.

        Raises:
            RecordsError: the file holds no records, or one has no embedding.
            EncodingError: an embedding is of another model than `model`.
            ExistingRecordsError: `out` holds something.
        """
        with raises_producer_errors():
            need("parquet")
            from producer.embeddings.retag import retag_into  # noqa: PLC0415 - loads numpy

            check_label_options(options)
            check_labels(labels, options)
            output = Output.at(os.fspath(out), None)
            with output.reserved(self._on_note, overwrite=overwrite):
                done = retag_into(
                    output,
                    Path(file),
                    pack_of(labels, options),
                    model=model,
                    top_k=options.get("top_k", 5),
                    threshold=threshold_of(labels, options),
                    echo=self._on_note,
                )
            return done.tagged

    @property
    def connection(self) -> Connection:
        """The connection to Redis, for what has no method here.

        Raises:
            UsageError: the client is not open, or is that of a server.
        """
        return self._link.connection

    def runner(self, request: JobRequest) -> JobRunner:
        """Return what runs a job, for callers that want its parts."""
        return JobRunner(self._link.transport(), request, echo=self._on_note)

    def stream(
        self, request: JobRequest, images: Iterable[Image], writing: Writing, state: ResumeState
    ) -> RecordStream:
        """Return the records of a job whose output the caller has `prepared`."""
        runner = self.runner(request)
        batches = tag(runner, images, writing, state, self._link.jobs, self._on_note)
        return self._stream(runner, batches)

    def _stream(self, runner: JobRunner, batches: Batches) -> RecordStream:
        stream = RecordStream(runner, batches)
        self._streams.add(stream)
        return stream

    @property
    def _link(self) -> Link:
        if self._open_link is None:
            msg = _("the client is not open: use it in a `with` block")
            raise UsageError(msg)
        return self._open_link
