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
from producer.jobs import results as fetch
from producer.jobs.requeue import requeue as send_again
from producer.monitoring.doctor import examine
from producer.monitoring.status import StatusSampler
from worker.contract.commands import TranslatedGroup
from worker.contract.extras import need
from worker.contract.i18n import ENGLISH, use_language
from worker.contract.i18n import gettext as _
from worker.contract.settings import Settings

_STANDARD_ERROR: Final = 2


@click.group(cls=TranslatedGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option("--watch", is_flag=True, help="Refresh every two seconds, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@broker_option
@exits_with_code
def status(job: str | None, broker: str | None, *, watch: bool, as_json: bool) -> int:
    """Show all jobs, the workers online and the dead letters, or one job."""
    if watch and as_json:
        msg = _("--watch and --json exclude each other")
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
    """Write the records of a job that was sent with --no-wait: those available so far."""
    output = output_of(out, form)

    def waiting() -> None:
        if words := connection.stall_reason(job):
            echo(_("waiting: {reason}").format(reason=words))

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
                msg = _("job {job} has no results to write: {place} is unchanged").format(
                    job=job, place=out.url or out.file
                )
                raise fetch.NoResultsError(msg)
    output.deliver()
    for words in (*found.remarks(), *output.remarks()):
        echo(words)
    if not found.job.finished:
        return COULD_NOT_RUN
    return SOME_FAILED if found.failed or output.unwritten else OK


@main.command(epilog="Example: producer requeue --all")
@click.argument("letters", nargs=-1, metavar="LETTER...")
@click.option("--all", "everything", is_flag=True, help="Take all dead letters.")
@click.option("--drop", is_flag=True, help="Delete them instead of sending them again.")
@broker_option
@exits_with_code
def requeue(letters: tuple[str, ...], broker: str | None, *, everything: bool, drop: bool) -> int:
    """Send dead letters (see `producer status`) again, as a new job."""
    if bool(letters) == everything:
        msg = _("name the dead letters to send again, or give --all")
        raise click.UsageError(msg)
    with open_connection(Settings.from_env(broker_url=broker)) as connection:
        there = {letter.id: letter for letter in connection.dead.list()}
        if unknown := [name for name in letters if name not in there]:
            msg = _("there is no dead letter {name}: see producer status").format(name=unknown[0])
            raise click.UsageError(msg)
        chosen = [there[name] for name in letters or there]
        if drop:
            connection.dead.remove(chosen)
            echo(_("deleted {letters:,} dead letters").format(letters=len(chosen)))
            return OK
        sendable = [letter for letter in chosen if letter.chunk]
        if not sendable:
            echo(_("none of them can be sent again"))
            return COULD_NOT_RUN
        job, images = send_again(connection, sendable)
    click.echo(job)
    echo(
        _(
            "sent {images:,} images; get their tags: producer results {job} --wait --out tags.jsonl"
        ).format(images=images, job=job)
    )
    return OK


@main.command(epilog="Example: producer exporter --port 9808")
@address_options(9808)
@broker_option
@exits_with_code
def exporter(port: int, address: str, broker: str | None) -> int:
    """Serve queue metrics for Prometheus, until interrupted. Run one per Redis."""
    need("ops")
    from producer.monitoring.prometheus import serve  # noqa: PLC0415 - only here

    place = url_place(address, port)
    with open_connection(Settings.from_env(broker_url=broker), retries=False) as connection:
        serve(
            connection,
            address,
            port,
            lambda: echo(_("listening on http://{place}/metrics").format(place=place)),
        )
    return OK


@main.command(epilog="Example: producer serve --port 8000")
@address_options(8000)
@broker_option
@exits_with_code
def serve(port: int, address: str, broker: str | None) -> int:
    """Serve the HTTP API until interrupted: tags for single images, and jobs."""
    need("http")
    from producer.api.server import serve as answer  # noqa: PLC0415 - only here

    settings = Settings.from_env(broker_url=broker)
    if not settings.api_key and address not in {"127.0.0.1", "::1", "localhost"}:
        msg = _("anyone who can reach this port could use it: set WANWU_API_KEY")
        raise click.UsageError(msg)
    place = url_place(address, port)

    def listening() -> None:
        echo(
            _("listening on http://{place}, documented at http://{place}/docs").format(place=place)
        )
        # What is answered over HTTP is for programs.
        use_language(ENGLISH)

    with open_connection(settings, retries=False) as connection:
        answer(connection, address, port, listening)
    return OK


@main.command(epilog="Example: producer doctor ./images")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@broker_option
@exits_with_code
def doctor(paths: tuple[str, ...], broker: str | None) -> int:
    """Check broker, workers, model, clocks, and who may read PATH; say what to do."""
    marks = {"ok": _("ok"), "note": _("note"), "fail": _("fail")}
    worst = OK
    for found in examine(Settings.from_env(broker_url=broker), paths):
        click.echo(f"{marks[found.state]:<4}  {found.what}")
        if found.todo:
            click.echo(f"      -> {found.todo}")
        if found.state == "fail":
            worst = COULD_NOT_RUN
    return worst


@main.command(epilog="Example: producer completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the line that completes commands and options: add it to the shell's start file."""
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
        echo(
            _("cancelled {job}: {images:,} images had not been tagged").format(
                job=job, images=found.outstanding
            )
        )
    elif found.state == "cancelled":
        echo(_("{job} was cancelled already").format(job=job))
    else:
        echo(_("{job} is finished: there is nothing to cancel").format(job=job))
    return OK


for verb in (submit, watch, convert, retag, search, untag):
    main.add_command(verb)
