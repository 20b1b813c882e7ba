"""The verb `producer submit`: its options. What it does is in `run_submit`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import click

from producer.cli.exit_codes import echo, exits_with_code
from producer.cli.options import (
    LABEL_RULES,
    OUTPUT,
    SENDING,
    WORKERS,
    LabelArguments,
    broker_option,
    label_options,
    priority_option,
)
from producer.cli.output_options import OVERWRITE_RULE, output_options, overwrite_option
from producer.cli.verbs import option, takes, verb
from producer.formats.output import Place
from worker.contract.i18n import gettext_noop as N_
from worker.contract.imports import importing
from worker.contract.messages import MAX_CHUNK_IMAGES, Priority
from worker.contract.number_types import Whole
from worker.contract.options import Rule

_RULES: Final = (
    *LABEL_RULES,
    OVERWRITE_RULE,
    Rule(
        "model",
        N_("--model needs --embedded; your own worker takes it as: worker start --model"),
        needs=("embedded",),
    ),
    Rule(
        "flower",
        N_("--flower needs --embedded; for your own Redis run: ops/flower"),
        needs=("embedded",),
    ),
    Rule(
        "embedded",
        N_("--embedded ends with this command: it excludes --no-wait and --broker"),
        excludes=("no_wait", "broker"),
    ),
    Rule(
        "server",
        N_(
            "--server sends bytes to a server: it excludes --blobs, --broker, --no-wait and "
            "--embedded"
        ),
        excludes=("blobs", "broker", "no_wait", "embedded"),
    ),
    Rule(
        "overwrite",
        N_("--resume keeps the records of the file, --overwrite drops them: give one of them"),
        excludes=("resume",),
    ),
    Rule("retry_failed", N_("--retry-failed needs --resume"), needs=("resume",)),
    Rule(
        "no_wait",
        N_("--no-wait exits before there are records: get them with producer results"),
        excludes=("out", "form"),
    ),
)


class SubmitArguments(LabelArguments, frozen=True, kw_only=True):
    """What was typed."""

    paths: tuple[str, ...]
    blobs: bool
    chunk_size: int | None
    priority: Priority
    out: Place | None
    form: str | None
    no_wait: bool
    resume: bool
    overwrite: bool
    retry_failed: bool
    embeddings: bool
    server: str | None
    dry_run: bool
    embedded: bool
    flower: bool
    model: str | None
    broker: str | None


@verb("producer submit ./images --label 猫 --label 狗 --calibrated --out tags.jsonl", rules=_RULES)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@label_options
@output_options
@option(
    "--resume",
    is_flag=True,
    section=OUTPUT,
    help="Continue an interrupted submit with the same --out: images that are "
    "done (same path, size, time, model and labels) are skipped, and "
    "results that have arrived meanwhile are added.",
)
@overwrite_option
@option(
    "--retry-failed",
    is_flag=True,
    section=OUTPUT,
    help="With --resume: retry images that failed before.",
)
@option(
    "--embeddings",
    is_flag=True,
    section=OUTPUT,
    help="Keep each image's embedding, for retag and search.",
)
@option(
    "--blobs",
    is_flag=True,
    section=SENDING,
    help="Send the images' bytes, for workers that cannot see the files.",
)
@option(
    "--chunk-size",
    old=["--chunk"],
    type=Whole(1, MAX_CHUNK_IMAGES),
    section=SENDING,
    help="Images per message. [default: 8, growing to 64 in a large job; 8 with --blobs]",
)
@priority_option
@option(
    "--no-wait",
    is_flag=True,
    section=SENDING,
    help="Send the images, print the job's id, and exit. Above 20,000 images "
    "(512 as blobs), workers must make room first.",
)
@option(
    "--dry-run",
    is_flag=True,
    section=SENDING,
    help="Send nothing: print what would be sent, and how long it would take.",
)
@option(
    "--server",
    old=["--http"],
    metavar="URL",
    section=WORKERS,
    help="Send the images' bytes to a `producer serve`, with WANWU_API_KEY: no Redis is needed.",
)
@option(
    "--embedded",
    is_flag=True,
    section=WORKERS,
    help="Run a private Redis and a worker for this command.",
)
@option(
    "--flower",
    is_flag=True,
    section=WORKERS,
    help="Run Flower for the --embedded worker, for as long as this command runs.",
)
@option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    section=WORKERS,
    help="Model of the --embedded worker: an artifact, or a Hugging Face directory or id.",
)
@broker_option
@exits_with_code
@takes(SubmitArguments)
def submit(arguments: SubmitArguments) -> int:
    """Tag images: files, directories, patterns, or - for a list on standard input."""
    with _head_start(arguments):
        with importing():
            from producer.cli.run_submit import run

        return run(arguments)


def _head_start(arguments: SubmitArguments) -> AbstractContextManager[object]:
    """Let a worker of our own load while we do."""
    if not arguments.embedded or arguments.dry_run:
        return nullcontext()
    from producer.backend.head_start import HeadStart

    return HeadStart(arguments.model, echo)
