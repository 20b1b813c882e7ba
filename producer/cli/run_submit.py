"""What `producer submit` does, by way of the client: shows progress, and how to go on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import click

from producer.backend.connection import ONLINE_TIMEOUT_S
from producer.backend.workers import online
from producer.cli.exit_codes import OK, SOME_FAILED, echo
from producer.cli.interruption import Interruption
from producer.cli.output import ConsoleOutput, output_of
from producer.cli.progress import show
from producer.cli.submit import SubmitArguments
from producer.client import Client
from producer.errors import UnavailableError
from producer.jobs.dry_run import dry_run, lines
from producer.jobs.options import JobOptions, JobRequest, TagSource, request_of
from producer.jobs.resume import ResumeState
from producer.jobs.run import find_images
from producer.jobs.tagging import Writing, prepared
from producer.sources.scan import Image, check
from worker.contract.i18n import gettext as _
from worker.contract.urls import is_url


def run(arguments: SubmitArguments) -> int:
    """Tag the images, or do what else was asked for; return the exit code."""
    output = output_of(arguments.out, arguments.form, arguments.threshold)
    request = _request(arguments, output)
    writing = Writing(output, arguments.resume, arguments.retry_failed, arguments.overwrite)
    with prepared(writing, echo, is_dry=arguments.dry_run) as state:
        images = find_images(request.paths, echo)
        if arguments.dry_run:
            return _dry_run(arguments, request, images, state)
        keeps = not (arguments.embedded or arguments.server)
        with (
            Interruption(writing, keeps=keeps) as interruption,
            _client(arguments) as client,
            _flower(client, wanted=arguments.flower),
        ):
            if arguments.no_wait:
                return _leave_alone(client, request, images, interruption)
            stream = client.stream(request, images, writing, state)
            interruption.job = stream
            show(stream, output.console, arguments.threshold)
    return _ended(output, state, failed=stream.failed)


def _request(arguments: SubmitArguments, output: ConsoleOutput) -> JobRequest:
    """Return what is to be tagged.

    Raises:
        click.UsageError: options that the output or the paths exclude.
        NoSuchPathError: a path leads nowhere.
        LabelsError: labels or templates that cannot be used.
    """
    if arguments.resume and not (arguments.out or output.in_sidecars):
        raise click.UsageError(_("--resume continues a file: give its --out"))
    if arguments.embeddings and not output.form.embeddings:
        raise click.UsageError(_("--embeddings needs a .jsonl or .parquet file"))
    if arguments.blobs and any(map(is_url, arguments.paths)):
        raise click.UsageError(_("workers fetch URLs themselves: leave out --blobs"))
    check(arguments.paths)
    options = JobOptions(
        top_k=arguments.top_k,
        threshold=arguments.least_score,
        embeddings=arguments.embeddings,
        thumbnail_px=output.form.thumbnail_px,
        chunk_size=arguments.chunk_size,
        as_blobs=arguments.blobs,
        priority=arguments.priority,
    )
    return request_of(arguments.paths, arguments.pack, options)


def _client(arguments: SubmitArguments) -> Client:
    if arguments.embedded:
        return Client.embedded(arguments.model, on_note=echo)
    return Client(arguments.server or arguments.broker, on_note=echo)


def _flower(client: Client, *, wanted: bool) -> AbstractContextManager[object]:
    """Run Flower beside what is done in the block, if somebody wants to watch."""
    if not wanted:
        return nullcontext()
    from producer.monitoring.flower.subprocess import flower_beside

    return flower_beside(client.connection.settings.broker_url.reveal(), echo)


def _leave_alone(
    client: Client, request: JobRequest, images: Iterable[Image], interruption: Interruption
) -> int:
    """Send the images, and say how to come back to them."""
    runner = client.runner(request)
    interruption.job, interruption.sent = runner, lambda: runner.sent
    runner.check_worker(waits=False)
    sent = runner.send(images)
    click.echo(runner.job)
    echo(
        _("sent {images:,} images; check progress: producer status {job}").format(
            images=sent, job=runner.job
        )
    )
    echo(_("get their tags: producer results {job} --out tags.jsonl").format(job=runner.job))
    return OK


def _ended(output: ConsoleOutput, state: ResumeState, *, failed: int) -> int:
    """Say what a person should know of the records that were written; return the exit code."""
    output.say_remarks()
    if before := state.failed_before:
        message = _("{images:,} images failed before: --retry-failed tries them again")
        echo(message.format(images=before))
    return SOME_FAILED if failed or before or output.unwritten else OK


def _dry_run(
    arguments: SubmitArguments, request: JobRequest, images: Iterable[Image], state: ResumeState
) -> int:
    """Say what a submit would do."""
    workers, waiting = [], 0
    try:
        with Client(arguments.broker) as client:
            connection = client.connection
            workers = online(connection.app, ONLINE_TIMEOUT_S)
            waiting = sum(
                job.outstanding for job in connection.jobs.list() if job.state != "cancelled"
            )
    except UnavailableError as e:
        echo(_("note: {note}").format(note=e))
    if arguments.resume:
        model = workers[0].model if workers else ""
        images = state.pending(images, TagSource(model, request.options.labels))
    for line in lines(dry_run(images), workers, waiting):
        echo(line)
    return OK
