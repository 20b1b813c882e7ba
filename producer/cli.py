"""Click verbs of `producer`: arguments, printing, exit codes; nothing else."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console

from producer import fetch
from producer.desk import Desk, open_desk
from producer.exits import COULD_NOT_RUN, OK, SOME_FAILED, say, told
from producer.far import FarSession
from producer.file_verbs import convert, retag, search, untag
from producer.ledger import Ledger, ledger_of
from producer.memory import one_heap
from producer.options import (
    broker_option,
    label_options,
    output_of,
    output_options,
    request_of,
)
from producer.output import Output, Place
from producer.requeue import requeue as send_again
from producer.scan import Image
from producer.session import Session, find_images
from producer.status import Look
from worker.contract.messages import MAX_CHUNK_IMAGES
from worker.contract.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wanwu-tagger")
def main() -> None:
    """Send images to be tagged, and collect the tags."""
    one_heap()


@main.command(epilog="Example: producer submit ./images --label 猫 --label 狗 --out tags.jsonl")
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
    images = find_images(request.paths, say)
    ledger = ledger_of(output.target, retries_failed=words["retry_failed"])
    if words["resume"]:
        output.fetch()
        ledger.read()
    if words["http"]:
        far = FarSession(request, words["http"], settings.api_key, output.console)
        return _submit_far(far, output, ledger, images, settings, resumes=words["resume"])
    session = Session(request, output.console, say, ledger.begin)
    with (
        _told_if_stopped(session, output, embedded=words["embedded"]),
        open_desk(settings, embedded=words["embedded"], model=words["model"], say=say) as desk,
        _flower(desk, wanted=words["flower"]),
    ):
        maker = session.greet(desk, waits=not words["no_wait"])
        if words["no_wait"]:
            sent = session.send(desk, images)
            click.echo(session.job)
            say(f"sent {sent:,} images; how they fare: producer status {session.job}")
            say(f"their tags: producer results {session.job} --out tags.jsonl")
            return OK
        with output.sink(appends=words["resume"]) as sink:
            if words["resume"]:
                taken = ledger.inherit(desk.jobs, sink, maker)
                say(f"resuming: {ledger.images:,} images are done, {taken:,} of them meanwhile")
                images = ledger.remaining(images, maker)
            session.tag(desk, images, sink)
        ledger.end()
        output.deliver()
    for remark in output.remarks():
        say(remark)
    return SOME_FAILED if session.tally.failed or output.unwritten else OK


@main.command(epilog="Example: producer status --watch")
@click.argument("job", required=False)
@click.option("--watch", is_flag=True, help="Look again every two seconds, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@broker_option
@told
def status(job: str | None, broker: str | None, *, watch: bool, as_json: bool) -> int:
    """Show all jobs, the workers online and what was given up, or one job."""
    if watch and as_json:
        msg = "--watch is for people, --json for programs"
        raise click.UsageError(msg)
    # A table in a pipe or a file has no edge to be folded at.
    console = Console(width=None if sys.stdout.isatty() else 200)
    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        look = Look(desk, job)
        if as_json:
            click.echo(look.now().as_json())
        elif watch:
            look.watch(console)
        else:
            look.now().show(console)
    return OK


@main.command(epilog="Example: producer results 20261123-181502-5f3a9c --out tags.jsonl")
@click.argument("job")
@output_options
@click.option("--wait", is_flag=True, help="Wait until the job is finished.")
@broker_option
@told
def results(
    job: str, out: Place | None, form: str | None, *, wait: bool, broker: str | None
) -> int:
    """Write the records of a job that was left alone: those that are there so far."""
    output = output_of(out, form)

    def waiting() -> None:
        if words := desk.hitch(job):
            say(f"waiting: {words}")

    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        desk.jobs.get(job)
        if wait:
            fetch.wait(desk.jobs, job, waiting)
        with output.sink() as sink:
            found = fetch.fetch(desk.jobs, job, sink)
    output.deliver()
    for words in (*found.remarks(), *output.remarks()):
        say(words)
    if not found.job.finished:
        return COULD_NOT_RUN
    return SOME_FAILED if found.failed or output.unwritten else OK


@main.command(epilog="Example: producer requeue --all")
@click.argument("letters", nargs=-1, metavar="LETTER...")
@click.option("--all", "everything", is_flag=True, help="All that was given up.")
@click.option("--drop", is_flag=True, help="Forget them instead: they are not sent again.")
@broker_option
@told
def requeue(letters: tuple[str, ...], broker: str | None, *, everything: bool, drop: bool) -> int:
    """Send images that were given up (see `producer status`) again, as a job of their own."""
    if bool(letters) == everything:
        msg = "name what to send again, or give --all"
        raise click.UsageError(msg)
    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        there = {letter.id: letter for letter in desk.dead.list()}
        if unknown := [name for name in letters if name not in there]:
            msg = f"nothing that was given up has the name {unknown[0]}: see producer status"
            raise click.UsageError(msg)
        chosen = [there[name] for name in letters or there]
        if drop:
            desk.dead.remove(chosen)
            say(f"forgot {len(chosen):,}")
            return OK
        sendable = [letter for letter in chosen if letter.chunk]
        if not sendable:
            say("there is nothing that can be sent again")
            return COULD_NOT_RUN
        job, images = send_again(desk, sendable)
    click.echo(job)
    say(f"sent {images:,} images; their tags: producer results {job} --wait --out tags.jsonl")
    return OK


@main.command(epilog="Example: producer exporter --port 9808")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=9808,
    show_default=True,
    help="Where to answer.",
)
@click.option(
    "--address", default="127.0.0.1", show_default=True, help="0.0.0.0 to be asked from outside."
)
@broker_option
@told
def exporter(port: int, address: str, broker: str | None) -> int:
    """Tell Prometheus the backlog of all jobs, until interrupted. One a Redis is enough."""
    if not importlib.util.find_spec("prometheus_client"):
        msg = "this command needs: pip install 'wanwu-tagger[ops]'"
        raise click.UsageError(msg)
    from producer.exporter import serve  # noqa: PLC0415 - only here

    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        say(f"answering at http://{address}:{port}/metrics")
        serve(desk, address, port)
    return OK


@main.command(epilog="Example: WANWU_API_KEY=secret producer serve --address 0.0.0.0")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Where to answer.",
)
@click.option(
    "--address", default="127.0.0.1", show_default=True, help="0.0.0.0 to be asked from outside."
)
@broker_option
@told
def serve(port: int, address: str, broker: str | None) -> int:
    """Answer HTTP requests for tags, until interrupted: one image at a time, or jobs."""
    if not importlib.util.find_spec("fastapi"):
        msg = "this command needs: pip install 'wanwu-tagger[http]'"
        raise click.UsageError(msg)
    from producer.door.serve import serve as answer  # noqa: PLC0415 - only here

    settings = Settings.from_env(broker_url=broker)
    if not settings.api_key and address not in {"127.0.0.1", "::1", "localhost"}:
        msg = "whoever can reach this port could use it: set WANWU_API_KEY"
        raise click.UsageError(msg)
    with open_desk(settings) as desk:
        say(f"answering at http://{address}:{port}, described at http://{address}:{port}/docs")
        answer(desk, address, port)
    return OK


@main.command(epilog="Example: producer cancel 20261123-181502-5f3a9c")
@click.argument("job")
@broker_option
@told
def cancel(job: str, broker: str | None) -> int:
    """Cancel a job: its images that wait in the queue fail with the code `cancelled`."""
    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        desk.jobs.set_state(job, "cancelled")
        left = desk.jobs.get(job).outstanding
    say(f"cancelled {job}: {left:,} images were still to be tagged")
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
    for remark in output.remarks():
        say(remark)
    return SOME_FAILED if session.tally.failed or output.unwritten else OK


@contextmanager
def _flower(desk: Desk, *, wanted: bool) -> Iterator[None]:
    """Run Flower beside what is done in the block, if somebody wants to watch."""
    if not wanted:
        yield
        return
    from producer.dashboard.local import flower_beside  # noqa: PLC0415 - only here

    with flower_beside(desk.settings.broker_url, say):
        yield


@contextmanager
def _told_if_stopped(session: Session, output: Output, *, embedded: bool) -> Iterator[None]:
    """If it ends early, say where the results so far are, and how to get the others."""
    try:
        yield
    except BrokenPipeError:
        raise  # Whoever read the records has left: nobody asks.
    except BaseException as e:
        out = output.target.file
        word = "interrupted" if isinstance(e, KeyboardInterrupt) else "stopped"
        if session.job:
            say(f"{word}: {session.tally.done:,} results are in {output.place}")
        elif isinstance(e, KeyboardInterrupt):
            say(f"{word} before any work began{f'; {out} is as it was' if out else ''}")
        if session.job and not embedded:
            say(f"what was sent will still be tagged: producer results {session.job} --out FILE")
            say(f"or drop it: producer cancel {session.job}")
            if out or output.target.in_sidecars:
                say("or go on where this ended: the same command with --resume")
        raise


for verb in (convert, retag, search, untag):
    main.add_command(verb)


if __name__ == "__main__":
    main()
