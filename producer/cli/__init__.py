"""Click verbs of `producer`: arguments, printing, exit codes; nothing else."""

from __future__ import annotations

import os
import sys
from typing import Final

import click
from rich.console import Console

from producer.backend.connection import open_connection
from producer.backend.malloc import limit_malloc_arenas
from producer.backend.ports import url_place
from producer.cli.exit_codes import COULD_NOT_RUN, OK, SOME_FAILED, echo, exits_with_code
from producer.cli.options import address_options, broker_option, job_argument
from producer.cli.output import Place, is_terminal
from producer.cli.output_options import output_of, output_options, overwrite_option, reserved
from producer.cli.records import convert, retag, search, untag
from producer.cli.submit import submit
from producer.cli.watch import watch
from producer.console.i18n import translated
from producer.jobs import results as fetch
from producer.jobs.requeue import requeue as send_again
from producer.monitoring.doctor import examine
from producer.monitoring.status import StatusSampler
from worker.contract.extras import need
from worker.contract.settings import Settings

_STANDARD_ERROR: Final = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wanwu-tagger")
def main() -> None:
    """Send images to be tagged, and collect the tags."""
    # Where a standard stream is closed (`>&-`), no file or connection may take its number.
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(number)
    limit_malloc_arenas()


@main.command(epilog="Example: producer status --watch")
@job_argument(required=False)
@click.option("--watch", is_flag=True, help="Look again every two seconds, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@broker_option
@exits_with_code
def status(job: str | None, broker: str | None, *, watch: bool, as_json: bool) -> int:
    """Show all jobs, the workers online and what was given up, or one job."""
    if watch and as_json:
        msg = "--watch is for people, --json for programs"
        raise click.UsageError(msg)
    # A table in a pipe or a file has no edge to be folded at.
    console = Console(width=None if is_terminal(sys.stdout) else 200)
    with open_connection(Settings.from_env(broker_url=broker)) as connection:
        look = StatusSampler(connection, job)
        if as_json:
            click.echo(look.now().as_json())
        elif watch:
            look.watch(console, echo)
        else:
            look.now().show(console)
    return OK


@main.command(epilog="Example: producer results 20261123-181502-5f3a9c --out tags.jsonl")
@job_argument()
@output_options
@overwrite_option
@click.option("--wait", is_flag=True, help="Wait until the job is finished.")
@broker_option
@exits_with_code
def results(
    job: str,
    out: Place | None,
    form: str | None,
    broker: str | None,
    *,
    wait: bool,
    overwrite: bool,
) -> int:
    """Write the records of a job that was left alone: those that are there so far."""
    output = output_of(out, form)

    def waiting() -> None:
        if words := connection.stall_reason(job):
            echo(f"waiting: {words}")

    with (
        reserved(output, out, echo, overwrite=overwrite),
        open_connection(Settings.from_env(broker_url=broker)) as connection,
    ):
        connection.jobs.get(job)
        if wait:
            retry_timeout_s = float(connection.settings.redis_retry_timeout_s)
            fetch.wait(connection.jobs, job, waiting, retry_timeout_s=retry_timeout_s)
        with output.sink() as sink:
            found = fetch.fetch(connection.jobs, job, sink)
            if out and overwrite and not found.images:
                msg = f"job {job} has no results to write: {out.url or out.file} is as it was"
                raise fetch.NoResultsError(msg)
    output.deliver()
    for words in (*found.remarks(), *output.remarks()):
        echo(words)
    if not found.job.finished:
        return COULD_NOT_RUN
    return SOME_FAILED if found.failed or output.unwritten else OK


@main.command(epilog="Example: producer requeue --all")
@click.argument("letters", nargs=-1, metavar="LETTER...")
@click.option("--all", "everything", is_flag=True, help="All that was given up.")
@click.option("--drop", is_flag=True, help="Forget them instead: they are not sent again.")
@broker_option
@exits_with_code
def requeue(letters: tuple[str, ...], broker: str | None, *, everything: bool, drop: bool) -> int:
    """Send images that were given up (see `producer status`) again, as a job of their own."""
    if bool(letters) == everything:
        msg = "name what to send again, or give --all"
        raise click.UsageError(msg)
    with open_connection(Settings.from_env(broker_url=broker)) as connection:
        there = {letter.id: letter for letter in connection.dead.list()}
        if unknown := [name for name in letters if name not in there]:
            msg = f"nothing that was given up has the name {unknown[0]}: see producer status"
            raise click.UsageError(msg)
        chosen = [there[name] for name in letters or there]
        if drop:
            connection.dead.remove(chosen)
            echo(f"forgot {len(chosen):,}")
            return OK
        sendable = [letter for letter in chosen if letter.chunk]
        if not sendable:
            echo("there is nothing that can be sent again")
            return COULD_NOT_RUN
        job, images = send_again(connection, sendable)
    click.echo(job)
    echo(f"sent {images:,} images; their tags: producer results {job} --wait --out tags.jsonl")
    return OK


@main.command(epilog="Example: producer exporter --port 9808")
@address_options(9808)
@broker_option
@exits_with_code
def exporter(port: int, address: str, broker: str | None) -> int:
    """Tell Prometheus the backlog of all jobs, until interrupted. One a Redis is enough."""
    need("ops")
    from producer.monitoring.prometheus import serve  # noqa: PLC0415 - only here

    place = url_place(address, port)
    with open_connection(Settings.from_env(broker_url=broker), retries=False) as connection:
        serve(connection, address, port, lambda: echo(f"answering at http://{place}/metrics"))
    return OK


@main.command(epilog="Example: producer serve --port 8000")
@address_options(8000)
@broker_option
@exits_with_code
def serve(port: int, address: str, broker: str | None) -> int:
    """Answer HTTP requests for tags, until interrupted: one image at a time, or jobs."""
    need("http")
    from producer.api.server import serve as answer  # noqa: PLC0415 - only here

    settings = Settings.from_env(broker_url=broker)
    if not settings.api_key and address not in {"127.0.0.1", "::1", "localhost"}:
        msg = "whoever can reach this port could use it: set WANWU_API_KEY"
        raise click.UsageError(msg)
    place = url_place(address, port)
    words = f"answering at http://{place}, described at http://{place}/docs"
    with open_connection(settings, retries=False) as connection:
        answer(connection, address, port, lambda: echo(words))
    return OK


@main.command(epilog="Example: producer doctor ./images")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@broker_option
@exits_with_code
def doctor(paths: tuple[str, ...], broker: str | None) -> int:
    """Look for what stands in the way: broker, workers, model, clocks, and who may read PATH."""
    marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    worst = OK
    for found in examine(Settings.from_env(broker_url=broker), paths):
        click.echo(f"{marks[found.state]}  {translated(found.what)}")
        if found.todo:
            click.echo(f"      -> {translated(found.todo)}")
        if found.state == "bad":
            worst = COULD_NOT_RUN
    return worst


@main.command(epilog="Example: producer completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what a shell needs to complete our words: add it to its start file."""
    lines = {
        "bash": 'eval "$(_PRODUCER_COMPLETE=bash_source producer)"',
        "zsh": 'eval "$(_PRODUCER_COMPLETE=zsh_source producer)"',
        "fish": "_PRODUCER_COMPLETE=fish_source producer | source",
    }
    click.echo(lines[shell])


@main.command(epilog="Example: producer cancel 20261123-181502-5f3a9c")
@job_argument()
@broker_option
@exits_with_code
def cancel(job: str, broker: str | None) -> int:
    """Cancel a job: its images that wait in the queue fail with the code `cancelled`."""
    with open_connection(Settings.from_env(broker_url=broker)) as connection:
        moved = connection.jobs.set_state(job, "cancelled")
        found = connection.jobs.get(job)
    if moved:
        echo(f"cancelled {job}: {found.outstanding:,} images were still to be tagged")
    elif found.state == "cancelled":
        echo(f"{job} was cancelled before")
    else:
        echo(f"{job} is finished already: there is nothing to cancel")
    return OK


for verb in (submit, watch, convert, retag, search, untag):
    main.add_command(verb)
