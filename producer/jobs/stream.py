"""Batches of records -> an iterator of single ones that knows its job and how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from producer.console.tally import Tally
from producer.jobs.run import JobRunner
from producer.jobs.tagging import Batches
from worker.contract.messages import Record


class RecordStream(Iterator[Record]):
    """The records of one job, in the order in which they come. Also a context manager.

    When the next records are asked for, those before count as safe: their results are dropped from
    Redis, but for those of the last 10,000 images.
    """

    def __init__(self, runner: JobRunner, batches: Batches) -> None:
        self._runner = runner
        self._batches = batches
        self._records: Iterator[Record] = iter(())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        while (record := next(self._records, None)) is None:
            self._records = iter(next(self._batches))
        return record

    def batches(self) -> Iterator[list[Record]]:
        """Yield the records that are left, those together that have come together."""
        if rest := list(self._records):
            yield rest
        yield from self._batches

    def close(self) -> None:
        """Stop the sending, and wait for what runs; what was sent will still be tagged."""
        self._records = iter(())
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def job(self) -> str:
        """The id of the job; empty before it has begun."""
        return self._runner.job

    @property
    def tally(self) -> Tally:
        """What has come back, and how fast."""
        return self._runner.tally

    @property
    def done(self) -> int:
        """How many images have a record."""
        return self._runner.done

    @property
    def failed(self) -> int:
        """How many of those have failed."""
        return self._runner.tally.failed

    @property
    def total(self) -> int | None:
        """How many images there are, as far as that is known."""
        return self._runner.total
