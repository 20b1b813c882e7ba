"""Click verbs of `producer`: arguments, printing, exit codes; nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Final, NoReturn, ParamSpec

import click
import redis
from kombu.exceptions import OperationalError
from rich.console import Console

from producer import fetch, report
from producer.scan import NoSuchPathError, check
from producer.session import (
    LabelsNeededError,
    NoImagesError,
    NoWorkerError,
    Request,
    Session,
    open_desk,
)
from producer.sinks import FORMATS, Sink, TerminalSink, UnknownFormatError, open_sink
from producer.sinks.jsonl import JsonlSink
from producer.workers import online
from worker.contract.broker import BrokerUnreachableError
from worker.contract.embedded import EmbeddedError
from worker.contract.jobs import NoSuchJobError
from worker.contract.labels import LabelPack, LabelsError, parse_labels, unique
from worker.contract.settings import Settings, SettingsError

OK: Final = 0
COULD_NOT_RUN: Final = 1
SOME_FAILED: Final = 3
INTERRUPTED: Final = 130
STATUS_TIMEOUT_S: Final = 1.0

P = ParamSpec("P")


def _known_format(
    _context: click.Context, _option: click.Parameter, out: Path | None
) -> Path | None:
    if out is not None and out.suffix.lower() not in FORMATS:
        msg = f"the ending must be one of {', '.join(FORMATS)}"
        raise click.BadParameter(msg)
    return out


def broker_option(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --broker, which all verbs share."""
    words = "Redis of the queue, else WANWU_BROKER_URL."
    return click.option("--broker", metavar="URL", help=words)(command)


def out_option(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --out, which all verbs that write records share."""
    words = f"File for the records ({', '.join(FORMATS)}); else standard output."
    kind = click.Path(dir_okay=False, writable=True, path_type=Path)
    return click.option("--out", type=kind, callback=_known_format, help=words)(command)


def told(command: Callable[P, int]) -> Callable[P, None]:
    """Run a verb and end the process with its exit code; what stops it is told in one line."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)
        try:
            sys.exit(command(*args, **kwargs))
        except (SettingsError, LabelsError, LabelsNeededError, NoImagesError) as e:
            raise click.UsageError(str(e)) from e
        except (BrokerUnreachableError, EmbeddedError, NoWorkerError, NoSuchJobError) as e:
            _fail(str(e))
        except (redis.RedisError, OperationalError) as e:
            _fail(f"lost Redis: {e}")
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wanwu-tagger")
def main() -> None:
    """Send images to be tagged, and collect the tags."""


@main.command(epilog="Example: producer submit ./images --label 猫 --label 狗 --out tags.jsonl")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Label file, one a line.",
)
@click.option("--label", multiple=True, metavar="TEXT", help="A label; may be repeated.")
@click.option(
    "--template",
    multiple=True,
    metavar="TEXT",
    help="Prompt with {} for the label; several are averaged. [default: the model's own]",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Tags an image, at most.",
)
@click.option(
    "--threshold", type=float, default=0.0, show_default=True, help="Lowest score of a tag, 0 to 1."
)
@click.option(
    "--blobs", is_flag=True, help="Send the images' bytes: for workers that do not see the files."
)
@click.option(
    "--chunk", type=click.IntRange(1, 1024), default=8, show_default=True, help="Images a message."
)
@out_option
@click.option("--no-wait", is_flag=True, help="Send, print the job's id, and leave.")
@click.option("--embedded", is_flag=True, help="Run a private Redis and a worker for this command.")
@click.option("--model", metavar="ARTIFACT", help="Model of the --embedded worker.")
@broker_option
@told
def submit(**words: Any) -> int:
    """Tag images: files, directories, patterns, or - for a list on standard input."""
    request, settings = _request(words), Settings.from_env(broker_url=words["broker"])
    console = _console(words["out"])
    with open_desk(settings, embedded=request.embedded, model=request.model) as desk:
        session = Session(request, desk, console)
        with _told_if_interrupted(session, words["out"], embedded=request.embedded):
            session.greet(waits=not words["no_wait"])
            if words["no_wait"]:
                images = session.send()
                click.echo(session.job)
                _say(f"sent {images:,} images; see: producer status {session.job}")
                return OK
            with _sink(words["out"], console) as sink:
                session.tag(sink)
    return SOME_FAILED if session.tally.failed else OK


@main.command(epilog="Example: producer status 20261123-181502-5f3a9c")
@click.argument("job", required=False)
@broker_option
@told
def status(job: str | None, broker: str | None) -> int:
    """Show all jobs and the workers online, or one job."""
    console = Console()
    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        console.print(report.jobs_table([desk.jobs.get(job)] if job else desk.jobs.list()))
        if not job:
            console.print(report.workers_table(online(desk.app, STATUS_TIMEOUT_S)))
    return OK


@main.command(epilog="Example: producer results 20261123-181502-5f3a9c --out tags.jsonl")
@click.argument("job")
@out_option
@click.option("--wait", is_flag=True, help="Wait until the job is finished.")
@broker_option
@told
def results(job: str, out: Path | None, *, wait: bool, broker: str | None) -> int:
    """Write the records of a job that was left alone: those that are there so far."""
    console = _console(out)
    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        desk.jobs.get(job)
        with _sink(out, console) as sink:
            found = fetch.fetch(desk.jobs, job, sink, waits=wait)
    for words in found.remarks():
        _say(words)
    if not found.job.finished:
        return COULD_NOT_RUN
    return SOME_FAILED if found.failed else OK


@main.command(epilog="Example: producer cancel 20261123-181502-5f3a9c")
@click.argument("job")
@broker_option
@told
def cancel(job: str, broker: str | None) -> int:
    """Cancel a job: its images that wait in the queue fail with the code `cancelled`."""
    with open_desk(Settings.from_env(broker_url=broker)) as desk:
        desk.jobs.set_state(job, "cancelled")
        left = desk.jobs.get(job).outstanding
    _say(f"cancelled {job}: {left:,} images were still to be tagged")
    return OK


def _request(words: dict[str, Any]) -> Request:
    if words["labels"] and words["label"]:
        msg = "give --labels or --label, not both"
        raise click.UsageError(msg)
    if words["model"] and not words["embedded"]:
        msg = "--model is for --embedded; a worker of yours takes it at: worker start --model"
        raise click.UsageError(msg)
    if words["embedded"] and (words["no_wait"] or words["broker"]):
        msg = "--embedded ends with this command: it takes neither --no-wait nor --broker"
        raise click.UsageError(msg)
    if words["no_wait"] and words["out"]:
        msg = "--no-wait leaves before there are records: fetch them with producer results"
        raise click.UsageError(msg)
    try:
        check(words["paths"])
    except NoSuchPathError as e:
        raise click.UsageError(str(e)) from e
    return Request(
        paths=words["paths"],
        pack=LabelPack(_labels(words), words["template"]),
        top_k=words["top_k"],
        threshold=words["threshold"],
        as_blobs=words["blobs"],
        chunk_images=words["chunk"],
        embedded=words["embedded"],
        model=words["model"],
    )


def _labels(words: dict[str, Any]) -> tuple[str, ...]:
    file: Path | None = words["labels"]
    if file is None:
        return unique(words["label"])
    try:
        return parse_labels(file.read_text(encoding="utf-8"))
    except (LabelsError, UnicodeDecodeError, OSError) as e:
        msg = f"{file}: {e}"
        raise LabelsError(msg) from e


def _console(out: Path | None) -> Console:
    """Return where words go: standard error, or the terminal that also shows the records."""
    shared = out is None and sys.stdout.isatty() and sys.stderr.isatty()
    return Console(stderr=not shared)


@contextmanager
def _sink(out: Path | None, console: Console) -> Iterator[Sink]:
    if out is None:
        if sys.stdout.isatty():
            yield TerminalSink(Console() if console.stderr else console)
        else:
            yield JsonlSink(sys.stdout, closes=False)
        return
    try:
        sink = open_sink(out)
    except (OSError, UnknownFormatError) as e:
        raise click.UsageError(str(e)) from e
    with sink:
        yield sink


@contextmanager
def _told_if_interrupted(session: Session, out: Path | None, *, embedded: bool) -> Iterator[None]:
    """On Ctrl-C say where the results so far are, and how to get the others."""
    try:
        yield
    except KeyboardInterrupt:
        where = f"in {out}" if out else "above"
        _say(f"interrupted: the results so far, {session.tally.done:,} images, are {where}")
        if session.job and not embedded:
            session.abandon()
            _say(f"what is in the queue will still be tagged: producer results {session.job}")
            _say(f"or drop it: producer cancel {session.job}")
        raise


def _interrupt(_number: int, _frame: object) -> NoReturn:
    # Once is enough: a second Ctrl-C must not stop the stopping.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(words: str) -> None:
    click.echo(words, err=True)


def _fail(message: str) -> NoReturn:
    _say(f"error: {message}")
    sys.exit(COULD_NOT_RUN)


if __name__ == "__main__":
    main()
