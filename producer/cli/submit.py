"""The click verb `producer submit`: options, and which way the images go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from producer.backend.connection import ONLINE_TIMEOUT_S, Desk, JobLostError, open_desk
from producer.backend.workers import online
from producer.cli.exit_codes import OK, SOME_FAILED, say, told
from producer.cli.options import broker_option, label_options, request_of
from producer.cli.output import Output, StandingError
from producer.cli.output_options import output_of, output_options, overwrite_option
from producer.jobs.dry_run import lines, rehearse
from producer.jobs.http_client import FarSession
from producer.jobs.resume import Ledger, Maker, ledger_of
from producer.jobs.run import Request, Session, find_images
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
@told
def submit(**words: Any) -> int:
    """Tag images: files, directories, patterns, or - for a list on standard input."""
    output = output_of(words["out"], words["form"])
    request = request_of(words, output.target)
    settings = Settings.from_env(broker_url=words["broker"])
    with output.held(say):
        ledger = _ledger(output, words)
        images = find_images(request.paths, say)
        if words["dry_run"]:
            return _rehearse(settings, ledger, images, request, resumes=words["resume"])
        if words["http"]:
            far = FarSession(request, words["http"], settings.api_key.reveal(), output.console)
            return _submit_far(far, output, ledger, images, settings, resumes=words["resume"])
        session = Session(request, output.console, say, ledger.begin)
        with (
            told_if_stopped(session, output, words),
            open_desk(settings, embedded=words["embedded"], model=words["model"], say=say) as desk,
            _flower(desk, wanted=words["flower"]),
        ):
            maker = session.greet(desk, waits=not words["no_wait"])
            if words["no_wait"]:
                return _leave_alone(session, desk, images)
            _tag(session, desk, output, ledger, images, maker, resumes=words["resume"])
    return _ended(output, ledger, failed=session.tally.failed)


def _ledger(output: Output, words: dict[str, Any]) -> Ledger:
    """Return the ledger of what is done; refuse an output that holds something unless told."""
    ledger = ledger_of(output.target, retries_failed=words["retry_failed"])
    if words["resume"]:
        output.fetch()
        ledger.read()
    elif not words["overwrite"]:
        try:
            output.refuse_to_replace("go on with --resume")
        except StandingError as e:
            if not words["dry_run"]:
                raise
            say(f"note: {e}")
    return ledger


def _tag(
    session: Session,
    desk: Desk,
    output: Output,
    ledger: Ledger,
    images: Iterable[Image],
    maker: Maker,
    *,
    resumes: bool,
) -> None:
    """Tag the images, and write what comes back."""
    with output.sink(appends=resumes) as sink:
        if resumes:
            taken = ledger.inherit(desk.jobs, sink, maker)
            say(f"resuming: {ledger.images:,} images are done, {taken:,} of them meanwhile")
            images = ledger.remaining(images, maker)
        session.tag(desk, images, sink)
    ledger.end()
    output.deliver()


def _leave_alone(session: Session, desk: Desk, images: Iterable[Image]) -> int:
    """Send the images, and say how to come back to them."""
    sent = session.send(desk, images)
    click.echo(session.job)
    say(f"sent {sent:,} images; how they fare: producer status {session.job}")
    say(f"their tags: producer results {session.job} --out tags.jsonl")
    return OK


def _ended(output: Output, ledger: Ledger, *, failed: int) -> int:
    """Say what a user should know of the records that were written; return the exit code."""
    for remark in output.remarks():
        say(remark)
    if before := ledger.failed_before:
        say(f"{before:,} images failed before: --retry-failed tries them again")
    return SOME_FAILED if failed or before or output.unwritten else OK


def _rehearse(
    settings: Settings, ledger: Ledger, images: Iterable[Image], request: Request, *, resumes: bool
) -> int:
    """Say what a submit would do."""
    workers, waiting = [], 0
    try:
        with open_desk(settings) as desk:
            workers = online(desk.app, ONLINE_TIMEOUT_S)
            waiting = sum(job.outstanding for job in desk.jobs.list() if job.state != "cancelled")
    except BrokerUnreachableError as e:
        say(f"note: {e}")
    if resumes:
        model = workers[0].model if workers else ""
        images = ledger.remaining(images, Maker(model, request.labels))
    for line in lines(rehearse(images), workers, waiting):
        say(line)
    return OK


def _submit_far(
    session: FarSession,
    output: Output,
    ledger: Ledger,
    images: Iterable[Image],
    settings: Settings,
    *,
    resumes: bool,
) -> int:
    """Tag images by way of a door."""
    maker = session.greet()
    say(f"tagging with {maker.model} behind the door")
    try:
        with output.sink(appends=resumes) as sink:
            if resumes:
                images = ledger.remaining(images, maker)
            session.tag(images, settings.max_bytes, sink, say)
    except KeyboardInterrupt:
        say(f"interrupted: {session.tally.done:,} results are in {output.place}")
        session.cancel()
        raise
    ledger.end()
    output.deliver()
    return _ended(output, ledger, failed=session.tally.failed)


@contextmanager
def _flower(desk: Desk, *, wanted: bool) -> Iterator[None]:
    """Run Flower beside what is done in the block, if somebody wants to watch."""
    if not wanted:
        yield
        return
    from producer.monitoring.flower.subprocess import flower_beside  # noqa: PLC0415 - only here

    with flower_beside(desk.settings.broker_url.reveal(), say):
        yield


@contextmanager
def told_if_stopped(session: Session, output: Output, words: dict[str, Any]) -> Iterator[None]:
    """If it ends early, say where the results so far are, and how to get the others."""
    try:
        yield
    except BrokenPipeError:
        raise  # Whoever read the records has left: nobody asks.
    except BaseException as e:
        out = output.target.file
        word = "interrupted" if isinstance(e, KeyboardInterrupt) else "stopped"
        if session.job and output.is_as_it_was:
            say(f"{word} before any result came; {out} is as it was")
        elif session.job:
            say(f"{word}: {session.tally.done:,} results are in {output.place}")
        elif isinstance(e, KeyboardInterrupt):
            say(f"{word} before any work began{f'; {out} is as it was' if out else ''}")
        # What a Redis has lost will not be tagged; what is in the file is there.
        if session.job and not words["embedded"] and not isinstance(e, JobLostError):
            say(f"what was sent will still be tagged: producer results {session.job} --out FILE")
            say(f"or drop it: producer cancel {session.job}")
        if session.job and not words["embedded"]:
            if words["overwrite"]:
                say("or go on where this ended: with --resume in place of --overwrite")
            elif out or output.target.in_sidecars:
                say("or go on where this ended: the same command with --resume")
        raise
