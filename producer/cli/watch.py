"""The click verb `producer watch`: as submit, for what arrives in a directory from now on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from producer.backend.connection import Connection, open_connection
from producer.cli.exit_codes import OK, echo, exits_with_code
from producer.cli.options import broker_option, finite, label_options, pack_of, threshold_of
from producer.cli.output import Output
from producer.cli.output_options import output_of, output_options
from producer.formats import Sink
from producer.jobs.resume import ResumeState, TagSource, resume_state_of
from producer.jobs.run import JobRunner, Request
from producer.sources.scan import STANDARD_INPUT, Image, scan
from producer.sources.watch import SETTLE_S
from producer.sources.watch import watch as arrivals
from worker.contract.extras import need
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.settings import Settings


@click.command(epilog="Example: producer watch ./inbox --format xmp --threshold 0.3")
@click.argument(
    "directory",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
)
@label_options
@output_options
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    callback=finite,
    default=SETTLE_S,
    show_default=True,
    help="Seconds for which a file must not change before it is sent.",
)
@click.option("--embedded", is_flag=True, help="Run a private Redis and a worker for this command.")
@click.option("--model", metavar="ARTIFACT|DIR|ID", help="Model of the --embedded worker.")
@broker_option
@exits_with_code
def watch(directory: Path, settle: float, broker: str | None, **words: Any) -> int:
    """Tag images in DIRECTORY that are not done yet, then those that arrive, until interrupted."""
    output = output_of(words["out"], words["form"])
    _check(output, broker, words)
    request = Request(
        # What is counted beforehand is known to be all; here more come.
        paths=(STANDARD_INPUT,),
        about=str(directory),
        pack=pack_of(words),
        top_k=words["top_k"],
        threshold=threshold_of(words),
        as_blobs=False,
        chunk_images=None,
    )
    settings = Settings.from_env(broker_url=broker)
    with output.held(echo):
        resume_state = resume_state_of(output.target)
        resume_state.read()
        with open_connection(
            settings, embedded=words["embedded"], model=words["model"], echo=echo
        ) as connection:
            _watch(directory, settle, connection, output, resume_state, request)
    return OK


def _watch(
    directory: Path,
    settle_s: float,
    connection: Connection,
    output: Output,
    resume_state: ResumeState,
    request: Request,
) -> None:
    """Tag what is there, then what arrives, without end."""
    maker = JobRunner(request, output.console, echo).check_worker(connection, waits=True)
    with output.sink(appends=True) as sink:
        resume_state.take_over(connection.jobs, sink, maker)
    for images in _rounds(directory, settle_s, resume_state, maker):
        session = JobRunner(request, output.console, echo, resume_state.begin)
        # Opened anew each time: at the end of a round the file may be another.
        with output.sink(appends=True) as sink:
            session.tag(connection, images, _Noted(sink, resume_state))
        resume_state.end()


def _rounds(
    directory: Path, settle_s: float, resume_state: ResumeState, maker: TagSource
) -> Iterator[list[Image]]:
    """Yield what is to be tagged, some images at a time."""

    def skipped(place: str, error: OSError) -> None:
        echo(
            _("skipped: {directory} cannot be listed: {reason}").format(
                directory=place, reason=error.strerror
            )
        )

    for settled in arrivals(directory, settle_s):
        # The first time, which is when it is watched, all that is there.
        found: list[Image] = [*settled] or list(scan([str(directory)], skipped))
        if images := list(resume_state.pending(found, maker)):
            yield images
        if not settled:
            echo(_("watching {directory}").format(directory=directory))


class _Noted:
    """A sink that tells the ledger what it writes."""

    def __init__(self, sink: Sink, resume_state: ResumeState) -> None:
        self._sink = sink
        self._resume_state = resume_state

    def write(self, record: Record) -> None:
        self._resume_state.note(record)
        self._sink.write(record)

    def flush(self) -> None:
        self._sink.flush()


def _check(output: Output, broker: str | None, words: dict[str, Any]) -> None:
    target = output.target
    need("watch")
    if not (target.in_sidecars or (target.file and target.form.stream)):
        msg = _(
            "watch writes records as images arrive: give --out FILE.jsonl or .csv, or --format xmp"
        )
        raise click.UsageError(msg)
    if (broker and words["embedded"]) or (words["model"] and not words["embedded"]):
        msg = _(
            "--embedded runs a Redis and a worker of its own: --model needs it, "
            "--broker excludes it"
        )
        raise click.UsageError(msg)
