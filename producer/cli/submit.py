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
from worker.contract.messages import MAX_CHUNK_IMAGES
from worker.contract.redis.connections import BrokerUnreachableError
from worker.contract.settings import Settings


@click.command(epilog="Example: producer submit ./images --label 猫 --label 狗 --out tags.jsonl")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@label_options
@click.option(
    "--blobs", is_flag=True, help="Send the images' bytes: for workers that do not see the files."
)
@click.option(
    "--chunk",
    type=click.IntRange(1, MAX_CHUNK_IMAGES),
    help="Images a message.  [default: 8, growing to 64 in a job of many; 8 with --blobs]",
)
@output_options
@click.option(
    "--no-wait",
    is_flag=True,
    help="Send, print the job's id, and leave. "
    "Above 20,000 images (512 as blobs), workers must make room first.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where a submit with the same --out broke off: images that are done there (same "
    "path, size, time, model and labels) are passed over, and results that have come meanwhile "
    "are added.",
)
@overwrite_option
@click.option(
    "--retry-failed", is_flag=True, help="With --resume: try images again that failed before."
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
    "--dry-run", is_flag=True, help="Send nothing: say what would be, and how long it would take."
)
@click.option("--embedded", is_flag=True, help="Run a private Redis and a worker for this command.")
@click.option(
    "--flower",
    is_flag=True,
    help="Show in Flower how the --embedded worker does, for as long as this command runs.",
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
            output.refuse_to_replace("go on with --resume")
        except ExistingRecordsError as e:
            if not words["dry_run"]:
                raise
            echo(f"note: {e}")
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
            echo(f"resuming: {resume_state.images:,} images are done, {taken:,} of them meanwhile")
            images = resume_state.pending(images, maker)
        session.tag(connection, images, sink)
    resume_state.end()
    output.deliver()


def _leave_alone(session: JobRunner, connection: Connection, images: Iterable[Image]) -> int:
    """Send the images, and say how to come back to them."""
    sent = session.send(connection, images)
    click.echo(session.job)
    echo(f"sent {sent:,} images; how they fare: producer status {session.job}")
    echo(f"their tags: producer results {session.job} --out tags.jsonl")
    return OK


def _ended(output: Output, resume_state: ResumeState, *, failed: int) -> int:
    """Say what a user should know of the records that were written; return the exit code."""
    for remark in output.remarks():
        echo(remark)
    if before := resume_state.failed_before:
        echo(f"{before:,} images failed before: --retry-failed tries them again")
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
        echo(f"note: {e}")
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
    echo(f"tagging with {maker.model} behind the door")
    try:
        with output.sink(appends=resumes) as sink:
            if resumes:
                images = resume_state.pending(images, maker)
            session.tag(images, settings.max_file_bytes, sink, echo)
    except KeyboardInterrupt:
        echo(f"interrupted: {session.tally.done:,} results are in {output.place}")
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
        word = "interrupted" if isinstance(e, KeyboardInterrupt) else "stopped"
        if session.job and output.is_as_it_was:
            echo(f"{word} before any result came; {out} is as it was")
        elif session.job:
            echo(f"{word}: {session.tally.done:,} results are in {output.place}")
        elif isinstance(e, KeyboardInterrupt):
            echo(f"{word} before any work began{f'; {out} is as it was' if out else ''}")
        # What a Redis has lost will not be tagged; what is in the file is there.
        if session.job and not words["embedded"] and not isinstance(e, JobLostError):
            echo(f"what was sent will still be tagged: producer results {session.job} --out FILE")
            echo(f"or drop it: producer cancel {session.job}")
        if session.job and not words["embedded"]:
            if words["overwrite"]:
                echo("or go on where this ended: with --resume in place of --overwrite")
            elif out or output.target.in_sidecars:
                echo("or go on where this ended: the same command with --resume")
        raise
