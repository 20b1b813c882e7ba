"""The click verb `producer submit`: options, and which way the images go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from producer.backend.connection import ONLINE_TIMEOUT_S, Connection, JobLostError, open_connection
from producer.backend.workers import online
from producer.cli.exit_codes import OK, SOME_FAILED, echo, exits_with_code
from producer.cli.options import broker_option, label_options, request_of
from producer.cli.output import ExistingRecordsError, Output
from producer.cli.output_options import output_of, output_options, overwrite_option
from producer.jobs.dry_run import dry_run, lines
from producer.jobs.http_client import HttpJobRunner
from producer.jobs.resume import ResumeState, TagSource, resume_state_of
from producer.jobs.run import JobRunner, Request, find_images
from producer.sources.scan import Image
from worker.contract.i18n import gettext as _
from worker.contract.messages import MAX_CHUNK_IMAGES
from worker.contract.redis.connections import BrokerUnreachableError
from worker.contract.settings import Settings


@click.command(epilog="Example: producer submit ./images --label 猫 --label 狗 --out tags.jsonl")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@label_options
@click.option(
    "--blobs", is_flag=True, help="Send the images' bytes, for workers that cannot see the files."
)
@click.option(
    "--chunk",
    type=click.IntRange(1, MAX_CHUNK_IMAGES),
    help="Images per message. [default: 8, growing to 64 in a large job; 8 with --blobs]",
)
@output_options
@click.option(
    "--no-wait",
    is_flag=True,
    help="Send the images, print the job's id, and exit. Above 20,000 images "
    "(512 as blobs), workers must make room first.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an interrupted submit with the same --out: images that are "
    "done (same path, size, time, model and labels) are skipped, and "
    "results that have arrived meanwhile are added.",
)
@overwrite_option
@click.option(
    "--retry-failed", is_flag=True, help="With --resume: retry images that failed before."
)
@click.option(
    "--embeddings", is_flag=True, help="Keep each image's embedding, for retag and search."
)
@click.option(
    "--http",
    metavar="URL",
    help="Send the images' bytes to a `producer serve`, with WANWU_API_KEY: no Redis is needed.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Send nothing: print what would be sent, and how long it would take.",
)
@click.option("--embedded", is_flag=True, help="Run a private Redis and a worker for this command.")
@click.option(
    "--flower",
    is_flag=True,
    help="Run Flower for the --embedded worker, for as long as this command runs.",
)
@click.option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    help="Model of the --embedded worker: an artifact, or a Hugging Face directory or id.",
)
@broker_option
@exits_with_code
def submit(**words: Any) -> int:
    """Tag images: files, directories, patterns, or - for a list on standard input."""
    output = output_of(words["out"], words["form"])
    request = request_of(words, output.target)
    settings = Settings.from_env(broker_url=words["broker"])
    with output.held(echo):
        resume_state = _resume_state(output, words)
        images = find_images(request.paths, echo)
        if words["dry_run"]:
            return _rehearse(settings, resume_state, images, request, resumes=words["resume"])
        if words["http"]:
            far = HttpJobRunner(request, words["http"], settings.api_key.reveal(), output.console)
            return _submit_far(far, output, resume_state, images, settings, resumes=words["resume"])
        session = JobRunner(request, output.console, echo, resume_state.begin)
        with (
            explains_interruption(session, output, words),
            open_connection(
                settings, embedded=words["embedded"], model=words["model"], echo=echo
            ) as connection,
            _flower(connection, wanted=words["flower"]),
        ):
            maker = session.check_worker(connection, waits=not words["no_wait"])
            if words["no_wait"]:
                return _leave_alone(session, connection, images)
            _tag(session, connection, output, resume_state, images, maker, resumes=words["resume"])
    return _ended(output, resume_state, failed=session.tally.failed)


def _resume_state(output: Output, words: dict[str, Any]) -> ResumeState:
    """Return the ledger of what is done; refuse an output that holds something unless told."""
    resume_state = resume_state_of(output.target, retries_failed=words["retry_failed"])
    if words["resume"]:
        output.fetch()
        resume_state.read()
    elif not words["overwrite"]:
        try:
            output.refuse_to_replace(_("continue with --resume"))
        except ExistingRecordsError as e:
            if not words["dry_run"]:
                raise
            echo(_("note: {note}").format(note=e))
    return resume_state


def _tag(
    session: JobRunner,
    connection: Connection,
    output: Output,
    resume_state: ResumeState,
    images: Iterable[Image],
    maker: TagSource,
    *,
    resumes: bool,
) -> None:
    """Tag the images, and write what comes back."""
    with output.sink(appends=resumes) as sink:
        if resumes:
            taken = resume_state.take_over(connection.jobs, sink, maker)
            echo(
                _(
                    "resuming: {done:,} images are done, {meanwhile:,} of them since the last run"
                ).format(done=resume_state.images, meanwhile=taken)
            )
            images = resume_state.pending(images, maker)
        session.tag(connection, images, sink)
    resume_state.end()
    output.deliver()


def _leave_alone(session: JobRunner, connection: Connection, images: Iterable[Image]) -> int:
    """Send the images, and say how to come back to them."""
    sent = session.send(connection, images)
    click.echo(session.job)
    echo(
        _("sent {images:,} images; check progress: producer status {job}").format(
            images=sent, job=session.job
        )
    )
    echo(_("get their tags: producer results {job} --out tags.jsonl").format(job=session.job))
    return OK


def _ended(output: Output, resume_state: ResumeState, *, failed: int) -> int:
    """Say what a user should know of the records that were written; return the exit code."""
    for remark in output.remarks():
        echo(remark)
    if before := resume_state.failed_before:
        echo(
            _("{images:,} images failed before: --retry-failed tries them again").format(
                images=before
            )
        )
    return SOME_FAILED if failed or before or output.unwritten else OK


def _rehearse(
    settings: Settings,
    resume_state: ResumeState,
    images: Iterable[Image],
    request: Request,
    *,
    resumes: bool,
) -> int:
    """Say what a submit would do."""
    workers, waiting = [], 0
    try:
        with open_connection(settings) as connection:
            workers = online(connection.app, ONLINE_TIMEOUT_S)
            waiting = sum(
                job.outstanding for job in connection.jobs.list() if job.state != "cancelled"
            )
    except BrokerUnreachableError as e:
        echo(_("note: {note}").format(note=e))
    if resumes:
        model = workers[0].model if workers else ""
        images = resume_state.pending(images, TagSource(model, request.labels))
    for line in lines(dry_run(images), workers, waiting):
        echo(line)
    return OK


def _submit_far(
    session: HttpJobRunner,
    output: Output,
    resume_state: ResumeState,
    images: Iterable[Image],
    settings: Settings,
    *,
    resumes: bool,
) -> int:
    """Tag images by way of a door."""
    maker = session.check_worker()
    echo(_("tagging with {model} over HTTP").format(model=maker.model))
    try:
        with output.sink(appends=resumes) as sink:
            if resumes:
                images = resume_state.pending(images, maker)
            session.tag(images, settings.max_file_bytes, sink, echo)
    except KeyboardInterrupt:
        echo(
            _("interrupted: {results:,} results are in {place}").format(
                results=session.tally.done, place=output.place
            )
        )
        session.cancel()
        raise
    resume_state.end()
    output.deliver()
    return _ended(output, resume_state, failed=session.tally.failed)


@contextmanager
def _flower(connection: Connection, *, wanted: bool) -> Iterator[None]:
    """Run Flower beside what is done in the block, if somebody wants to watch."""
    if not wanted:
        yield
        return
    from producer.monitoring.flower.subprocess import flower_beside  # noqa: PLC0415 - only here

    with flower_beside(connection.settings.broker_url.reveal(), echo):
        yield


@contextmanager
def explains_interruption(
    session: JobRunner, output: Output, words: dict[str, Any]
) -> Iterator[None]:
    """If it ends early, say where the results so far are, and how to get the others."""
    try:
        yield
    except BrokenPipeError:
        raise  # Whoever read the records has left: nobody asks.
    except BaseException as e:
        out = output.target.file
        if state := _state_at_end(session, output, is_interrupt=isinstance(e, KeyboardInterrupt)):
            echo(state)
        # What a Redis has lost will not be tagged; what is in the file is there.
        if session.job and not words["embedded"] and not isinstance(e, JobLostError):
            echo(
                _("what was sent will still be tagged: producer results {job} --out FILE").format(
                    job=session.job
                )
            )
            echo(_("or cancel it: producer cancel {job}").format(job=session.job))
        if session.job and not words["embedded"]:
            if words["overwrite"]:
                echo(_("or continue: the same command with --resume in place of --overwrite"))
            elif out or output.target.in_sidecars:
                echo(_("or continue: the same command with --resume"))
        raise


def _state_at_end(session: JobRunner, output: Output, *, is_interrupt: bool) -> str:
    """Return where the results are of a command that ends early; "" if there is nothing to say."""
    file = output.target.file
    if session.job and output.is_as_it_was:
        if is_interrupt:
            return _("interrupted before any result came; {file} is unchanged").format(file=file)
        return _("stopped before any result came; {file} is unchanged").format(file=file)
    if session.job:
        results, place = session.tally.done, output.place
        if is_interrupt:
            message = _("interrupted: {results:,} results are in {place}")
        else:
            message = _("stopped: {results:,} results are in {place}")
        return message.format(results=results, place=place)
    if not is_interrupt:
        return ""
    if file:
        return _("interrupted before any work began; {file} is unchanged").format(file=file)
    return _("interrupted before any work began")
