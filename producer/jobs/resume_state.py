"""What is done of a job already, and how to go on: the interface, and where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from producer.jobs.options import TagSource
from producer.sources.scan import Image
from worker.contract.messages import Record
from worker.contract.stores.jobs import JobStore


class ResumeState(Protocol):
    """What is done already, and how to go on from there."""

    @property
    def images(self) -> int:
        """How many images are known to be done."""

    @property
    def failed_before(self) -> int:
        """How many images that were passed over have failed, and were not tried again."""

    @property
    def sent_again(self) -> int:
        """How many images are sent again that an earlier job had lost."""

    def read(self) -> None:
        """Learn it."""

    def pending(self, images: Iterable[Image], source: TagSource) -> Iterator[Image]:
        """Yield the images that are not done yet."""

    def note(self, record: Record) -> None:
        """Note a record that was written."""

    def begin(self, job: str, *, replaces: bool = False) -> None:
        """Note which job goes on, and whether what stood there before is to go."""

    def end(self) -> None:
        """Note that the job has ended, and nothing is left of it."""

    def take_over(self, jobs: JobStore, source: TagSource) -> Iterator[list[Record]]:
        """Take over from the job that broke off: yield its records, to be written."""


class NoResumeState:
    """Of what is written to standard output nobody knows what is done."""

    @property
    def images(self) -> int:
        """Know of none."""
        return 0

    @property
    def failed_before(self) -> int:
        """Know of none."""
        return 0

    @property
    def sent_again(self) -> int:
        """Know of none."""
        return 0

    def read(self) -> None:
        """Have nothing to learn."""

    def pending(self, images: Iterable[Image], _source: TagSource) -> Iterator[Image]:
        """Yield all."""
        return iter(images)

    def note(self, record: Record) -> None:
        """Have nothing to note."""

    def begin(self, job: str, *, replaces: bool = False) -> None:
        """Have nowhere to note it."""

    def end(self) -> None:
        """Have nothing to note."""

    def take_over(self, _jobs: JobStore, _source: TagSource) -> Iterator[list[Record]]:
        """Know of no other job."""
        return iter(())
