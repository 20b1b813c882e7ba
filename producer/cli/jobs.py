"""The verbs about jobs that were sent: their progress, their records, dead letters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from producer.cli.exit_codes import COULD_NOT_RUN, OK, SOME_FAILED, echo, exits_with_code
from producer.cli.options import broker_option, job_argument
from producer.cli.output_options import (
    OVERWRITE_RULE,
    output_options,
    overwrite_option,
    threshold_option,
)
from producer.cli.verbs import option, verb
from producer.errors import NoResultsError
from producer.formats.output import Place
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.options import Rule
from worker.contract.printable import printable_json

if TYPE_CHECKING:
    from producer.jobs.requeue import Requeued

_PIPE_COLUMNS = 200


@verb(
    "producer status --watch",
    rules=[Rule("watch", N_("--watch and --json exclude each other"), excludes=("as_json",))],
)
@job_argument(required=False)
@option("--watch", is_flag=True, help="Refresh every two seconds, until interrupted.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@broker_option
@exits_with_code
def status(job: str | None, broker: str | None, *, watch: bool, as_json: bool) -> int:
    """Show all jobs, the workers online and the dead letters, or one job."""
    from producer.cli.output import is_terminal
    from producer.client import Client
    from producer.console.printable_console import PrintableConsole
    from producer.monitoring.status import StatusSampler

    # A table in a pipe or a file has no edge to be folded at.
    console = PrintableConsole(width=None if is_terminal(sys.stdout) else _PIPE_COLUMNS)
    with Client(broker, on_note=echo) as client:
        sampler = StatusSampler(client.connection, job)
        if as_json:
            click.echo(printable_json(sampler.now().as_json()))
        elif watch:
            sampler.watch(console, echo)
        else:
            sampler.now().show(console)
    return OK


@verb("producer results 20261123-181502-5f3a9c --out tags.jsonl", rules=[OVERWRITE_RULE])
@job_argument()
@output_options
@threshold_option
@overwrite_option
@option("--wait", is_flag=True, help="Wait until the job is finished.")
@option("--drop", is_flag=True, help="Delete results from Redis once they are written.")
@broker_option
@exits_with_code
def results(
    job: str,
    out: Place | None,
    form: str | None,
    threshold: float | None,
    broker: str | None,
    *,
    wait: bool,
    drop: bool,
    overwrite: bool,
) -> int:
    """Write the records of a job that was sent with --no-wait: those available so far."""
    from producer.cli.output import output_of
    from producer.client import Client
    from producer.jobs.results import fetch

    output = output_of(out, form, threshold)
    with (
        output.reserved(echo, overwrite=overwrite),
        Client(broker, on_note=echo) as client,
    ):
        client.job(job)
        if wait:
            client.wait(job)
        with output.sink() as sink:
            jobs = client.connection.jobs
            # What goes to a store is safe only when all is there.
            found = fetch(jobs, job, sink, drops=drop and not (out and out.url))
            if out and overwrite and not found.images:
                raise _no_results(job, out)
        output.deliver()
        if drop:
            jobs.drop_results(job, found.read)
    for remark in found.remarks():
        echo(remark)
    output.say_remarks()
    if out:
        message = _("wrote {records:,} records to {place}")
        echo(message.format(records=found.images, place=out.url or out.file))
    if not found.job.finished:
        return COULD_NOT_RUN
    return SOME_FAILED if found.failed or output.unwritten else OK


def _no_results(job: str, out: Place) -> NoResultsError:
    """Return the error for a job of which there is nothing to write over what `out` may hold."""
    if not out.url and not out.file.exists():
        return NoResultsError(_("job {job} has no results to write").format(job=job))
    message = _("job {job} has no results to write: {place} is unchanged")
    return NoResultsError(message.format(job=job, place=out.url or out.file))


@verb("producer requeue --all")
@click.argument("letters", nargs=-1, metavar="LETTER...")
@option("--all", "everything", is_flag=True, help="Take all dead letters.")
@option("--drop", is_flag=True, help="Delete them instead of sending them again.")
@broker_option
@exits_with_code
def requeue(letters: tuple[str, ...], broker: str | None, *, everything: bool, drop: bool) -> int:
    """Send dead letters (see `producer status`) again, as a new job."""
    from producer.client import Client
    from producer.jobs.requeue import requeue as send_again

    if bool(letters) == everything:
        msg = _("name the dead letters to send again, or give --all")
        raise click.UsageError(msg)
    with Client(broker, on_note=echo) as client:
        connection = client.connection
        there = {letter.id: letter for letter in connection.dead.list()}
        if unknown := [name for name in letters if name not in there]:
            msg = _("there is no dead letter {name}: see producer status").format(name=unknown[0])
            raise click.UsageError(msg)
        chosen = [there[name] for name in letters or there]
        if drop:
            connection.dead.remove(chosen)
            echo(_("deleted {letters:,} dead letters").format(letters=len(chosen)))
            return OK
        sendable = [letter for letter in chosen if letter.can_be_sent]
        stay = len(chosen) - len(sendable)
        if not chosen:
            echo(_("there are no dead letters"))
            return OK
        if not sendable:
            echo(_("none of them can be sent again: they stay, see producer status"))
            return SOME_FAILED
        sent = send_again(connection, sendable)
    _say_sent(sent)
    if stay:
        message = _("{letters:,} dead letters cannot be sent again, and stay: see producer status")
        echo(message.format(letters=stay))
    return SOME_FAILED if stay else OK


def _say_sent(sent: Requeued) -> None:
    """Print the jobs that go on, and say what was sent."""
    for name in filter(None, (sent.job, *sent.jobs)):
        click.echo(name)
    if sent.job:
        message = _(
            "sent {images:,} images; get their tags: producer results {job} --wait --out tags.jsonl"
        )
        echo(message.format(images=sent.images, job=sent.job))
    if sent.messages:
        message = _("sent {messages:,} messages again as they were: their jobs go on")
        echo(message.format(messages=sent.messages))
    if sent.elsewhere:
        message = _(
            "another requeue has taken {letters:,} dead letters, and sends them (if it was killed, "
            "try again in five minutes)"
        )
        echo(message.format(letters=sent.elsewhere))


@verb("producer cancel 20261123-181502-5f3a9c")
@job_argument()
@option("--drop", is_flag=True, help="Delete the job's results, too, also of a finished job.")
@broker_option
@exits_with_code
def cancel(job: str, broker: str | None, *, drop: bool) -> int:
    """Cancel a job: its images that wait in the queue fail with the code `cancelled`."""
    from producer.client import Client

    with Client(broker, on_note=echo) as client:
        before = client.job(job)
        found = client.cancel(job)
        if drop:
            client.connection.jobs.drop_results(job, range(found.chunks))
    if found.status != "cancelled":
        message = _("{job} is finished: there is nothing to cancel")
    elif before.status == "cancelled":
        message = _("{job} was cancelled already")
    else:
        message = _("cancelled {job}: {images:,} images had not been tagged")
    echo(message.format(job=job, images=before.outstanding))
    if drop:
        echo(_("its results are deleted"))
    return OK
