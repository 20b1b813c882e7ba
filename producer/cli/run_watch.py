"""What `producer watch` does: a job for what is there, then one for each few images that arrive."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import click

from producer.cli.exit_codes import OK, echo
from producer.cli.output import ConsoleOutput, output_of
from producer.cli.progress import show
from producer.cli.watch import WatchArguments
from producer.client import Client
from producer.jobs.options import JobOptions, JobRequest, TagSource, request_of
from producer.jobs.resume import ResumeState
from producer.jobs.run import JobRunner
from producer.jobs.stream import RecordStream
from producer.jobs.tagging import Writing, prepared
from producer.sources.scan import STANDARD_INPUT, Image, scan
from producer.sources.watch import watch as arrivals
from worker.contract.extras import need
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.reasons import os_reason


def run(arguments: WatchArguments) -> int:
    """Tag what is there and what arrives. Never returns, but for an interruption."""
    need("watch")
    output = output_of(arguments.out, arguments.form, arguments.threshold)
    if not (output.in_sidecars or (output.file and output.form.stream)):
        msg = _(
            "watch writes records as images arrive: give --out FILE.jsonl or .csv, or --format xmp"
        )
        raise click.UsageError(msg)
    options = JobOptions(
        top_k=arguments.top_k, threshold=arguments.least_score, priority=arguments.priority
    )
    # What is counted beforehand is known to be all; here more come.
    paths, about = (STANDARD_INPUT,), str(arguments.directory)
    request = request_of(paths, arguments.pack, options, about=about)
    with (
        prepared(Writing(output, resume=True), echo) as state,
        _client(arguments) as client,
    ):
        _watch(arguments, client, output, state, request)
    return OK


def _client(arguments: WatchArguments) -> Client:
    if arguments.embedded:
        return Client.embedded(arguments.model, on_note=echo)
    return Client(arguments.broker, on_note=echo)


def _watch(
    arguments: WatchArguments,
    client: Client,
    output: ConsoleOutput,
    state: ResumeState,
    request: JobRequest,
) -> None:
    """Tag what is there, then what arrives, without end."""
    source = client.runner(request).check_worker()
    with output.sink(appends=True) as sink:
        for records in state.take_over(client.connection.jobs, source):
            for record in records:
                sink.write(record)
    for images in _rounds(arguments.directory, arguments.settle_seconds, state, source):
        runner = client.runner(request)
        stream = RecordStream(runner, _written(runner, images, output, state))
        show(stream, output.console, arguments.threshold)
        output.say_remarks()
        state.end()


def _written(
    runner: JobRunner, images: list[Image], output: ConsoleOutput, state: ResumeState
) -> Generator[list[Record], None, None]:
    """Yield the records of a round when they are written, and known as done."""
    # Opened anew each time: at the end of a round the file may be another.
    with output.sink(appends=True) as sink:
        for records in runner.records(images, state.begin):
            for record in records:
                state.note(record)
                sink.write(record)
            sink.flush()
            yield records


def _rounds(
    directory: Path, settle_s: float, state: ResumeState, source: TagSource
) -> Iterator[list[Image]]:
    """Yield what is to be tagged, some images at a time."""

    def skipped(place: str, error: OSError) -> None:
        message = _("skipped: {directory} cannot be listed: {reason}")
        echo(message.format(directory=place, reason=os_reason(error)))

    for settled in arrivals(directory, settle_s):
        # The first time, which is when it is watched, all that is there.
        found: list[Image] = [*settled] or list(scan([str(directory)], skipped))
        if images := list(state.pending(found, source)):
            yield images
        if not settled:
            echo(_("watching {directory}").format(directory=directory))
