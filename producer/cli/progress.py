"""A stream of records -> progress while they come, and a summary when all have."""

from __future__ import annotations

from rich.console import Console

from producer.cli.exit_codes import echo
from producer.console.progress import progress
from producer.console.summary import Summary
from producer.jobs.stream import RecordStream
from worker.contract.messages import CERTAIN


def show(stream: RecordStream, console: Console, threshold: float | None = None) -> None:
    """Take all records of a job, whose output keeps them, and show how it goes.

    Tags count from `threshold`, if a person gave one, else where they are certain.
    """
    summary = Summary(CERTAIN if threshold is None else threshold)
    with progress(console, stream.tally) as shown:
        for records in stream.batches():
            summary.add(records)
            shown.update(stream.total)
    summary.show(console)
    echo(str(stream.tally))
