"""One job, whatever carries it: images -> transport -> records as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

from producer.console.tally import Tally
from producer.errors import NoImagesError
from producer.jobs.options import JobRequest, TagSource
from producer.sources.scan import STANDARD_INPUT, Image, count_images, scan
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.printable import printable
from worker.contract.reasons import os_reason

Echo = Callable[[str], object]
Total = Callable[[], int | None]


class Transport(Protocol):
    """Carries one job: over Redis, or over HTTP. Used once, from `create` to `end`."""

    def check_worker(self, request: JobRequest, echo: Echo, *, waits: bool) -> TagSource:
        """Look who will do the work, before any is sent; return what will make the tags.

        Raises:
            NoWorkerError: results are to be waited for, and no worker is online.
            LabelsNeededError: the model cannot do without labels.
            LabelsError: it cannot tell those given apart.
        """

    def create(self, request: JobRequest) -> str:
        """Begin a job and return its id; nothing is sent yet."""

    def start(self, images: Iterable[Image], total: Total, echo: Echo) -> None:
        """Begin to send; `echo` is called with why nothing comes, when nothing does for long."""

    def records(self) -> Iterator[list[Record]]:
        """Yield the records as they come, until there is one of each image."""

    def drain(self) -> None:
        """Return when all is sent, and leave the results where they are."""

    @property
    def images(self) -> int:
        """How many images have been sent."""

    @property
    def sent_all(self) -> bool:
        """Whether no more will be sent."""

    def end(self) -> None:
        """Stop what still runs, and mark a job that was not sent as a whole. Does not wait long."""


def find_images(paths: Iterable[str], echo: Echo) -> Iterator[Image]:
    """Return the images that paths, patterns and URLs stand for, after a look that there is one.

    Raises:
        NoImagesError: there is none.
    """

    def skipped(directory: str, error: OSError) -> None:
        name = printable(directory)
        echo(
            _("skipped: {directory} cannot be listed: {reason}").format(
                directory=name, reason=os_reason(error)
            )
        )

    paths = tuple(paths)
    images = scan(paths, skipped)
    first = next(images, None)
    if first is None:
        msg = _("no image found in {paths}").format(paths=", ".join(map(printable, paths)))
        raise NoImagesError(msg)
    return chain([first], images)


class JobRunner:
    """A job under way: feeds its transport, hands on what comes back, and counts it."""

    def __init__(
        self,
        transport: Transport,
        request: JobRequest,
        *,
        echo: Echo = lambda _: None,
    ) -> None:
        """Take what is to be done; `echo` is called with what a person should know meanwhile."""
        self._transport = transport
        self._request = request
        self._echo = echo
        self._counter = _Counter(request.paths)
        self.tally = Tally()
        self.job = ""

    def check_worker(self, *, waits: bool = True) -> TagSource:
        """Look who will do the work, before any is sent; return what will make the tags.

        Raises:
            NoWorkerError: results are to be waited for, and no worker is online.
            LabelsNeededError: the model cannot do without labels.
            LabelsError: it cannot tell those given apart.
        """
        return self._transport.check_worker(self._request, self._echo, waits=waits)

    def send(self, images: Iterable[Image]) -> int:
        """Send every image without waiting for results; return how many."""
        self._begin(images, lambda _: None)
        try:
            self._transport.drain()
        finally:
            self._transport.end()
        return self._transport.images

    def records(
        self, images: Iterable[Image], on_begin: Callable[[str], object] = lambda _: None
    ) -> Iterator[list[Record]]:
        """Send every image and yield the records as they come; closing it stops the sending.

        When the next ones are asked for, those yielded before must be safe. `on_begin` is called
        with the job's id before anything is sent.
        """
        self._begin(images, on_begin)
        try:
            for records in self._transport.records():
                self.tally.add(records)
                yield records
        finally:
            self._transport.end()

    @property
    def done(self) -> int:
        """How many images have a record."""
        return self.tally.done

    @property
    def sent(self) -> int:
        """How many images have been sent."""
        return self._transport.images

    @property
    def total(self) -> int | None:
        """How many images there are, as far as that is known."""
        if not self.job:  # Records of a job before it may come first: nothing is sent yet.
            return None
        return self._transport.images if self._transport.sent_all else self._counter.total

    def _begin(self, images: Iterable[Image], on_begin: Callable[[str], object]) -> None:
        self._counter.start()
        self.tally.restart()
        self.job = self._transport.create(self._request)
        on_begin(self.job)
        self._transport.start(images, lambda: self._counter.total, self._echo)


class _Counter:
    """Counts the images in a thread of its own, so that the time left is known early."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.total: int | None = None
        self._paths = paths

    def start(self) -> None:
        """Begin to count, unless it is a list on standard input, which can be read but once."""
        if STANDARD_INPUT not in self._paths:
            threading.Thread(target=self._count, name="counter", daemon=True).start()

    def _count(self) -> None:
        self.total = count_images(self._paths)
