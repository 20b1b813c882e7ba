"""The verbs that need no queue: they work on files of records, and on sidecars."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from producer.cli.exit_codes import OK, SOME_FAILED, echo, exits_with_code
from producer.cli.options import (
    LABEL_RULES,
    LabelArguments,
    broker_option,
    label_options,
    model_option,
    typed,
)
from producer.cli.output_options import (
    OVERWRITE_RULE,
    output_options,
    overwrite_option,
    threshold_option,
)
from producer.cli.verbs import option, takes, verb
from producer.console.summary import untagged
from producer.formats.output import Place
from worker.contract.extras import need
from worker.contract.i18n import gettext as _
from worker.contract.number_types import Whole
from worker.contract.printable import printable, printable_json
from worker.contract.reasons import os_reason

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@verb("producer convert tags.jsonl --out tags.parquet", rules=[OVERWRITE_RULE])
@click.argument("file", type=_FILE)
@output_options
@threshold_option
@overwrite_option
@exits_with_code
def convert(
    file: Path, out: Place | None, form: str | None, threshold: float | None, *, overwrite: bool
) -> int:
    """Write the records of FILE in another format, or as sidecars beside the images."""
    from producer.cli.output import output_of
    from producer.formats import records_of

    output = output_of(out, form, threshold)
    _not_itself(file, out)
    count = 0
    with output.reserved(echo, overwrite=overwrite), output.sink() as sink:
        for record in records_of(file):
            sink.write(record)
            count += 1
    output.deliver()
    output.say_remarks()
    echo(_("converted {records:,} records").format(records=count))
    return SOME_FAILED if output.unwritten else OK


@verb("producer untag ./images")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True))
@exits_with_code
def untag(paths: tuple[str, ...]) -> int:
    """Remove our keywords from XMP sidecars, in directories or of single images."""
    from producer.formats import target_of
    from producer.formats.xmp_untag import find_sidecars
    from producer.formats.xmp_untag import untag as take_out

    target_of(None, "xmp")

    def skipped(directory: str, error: OSError) -> None:
        message = _("skipped: {directory} cannot be listed: {reason}")
        echo(message.format(directory=printable(directory), reason=os_reason(error)))

    found = take_out(find_sidecars(paths, skipped))
    for problem in found.problems:
        echo(problem)
    echo(
        _(
            "removed automatic tags from {cleaned:,} sidecars; {removed:,} held nothing "
            "else and were deleted"
        ).format(cleaned=found.cleaned, removed=found.removed)
    )
    return SOME_FAILED if found.problems else OK


class RetagArguments(LabelArguments, frozen=True, kw_only=True):
    """What was typed."""

    file: Path
    model: str | None
    out: Place | None
    form: str | None
    overwrite: bool


@verb(
    "producer retag tags.parquet --labels new.txt --out new.parquet",
    rules=[*LABEL_RULES, OVERWRITE_RULE],
)
@click.argument("file", type=_FILE)
@label_options
@model_option
@output_options
@overwrite_option
@exits_with_code
@takes(RetagArguments)
def retag(arguments: RetagArguments) -> int:
    """Tag the images of FILE with other labels, from the embeddings kept in FILE.

    Records of images that failed are taken over as they are; the exit code is then 3.
    """
    need("parquet")
    from producer.cli.output import output_of
    from producer.embeddings.retag import retag_into

    output = output_of(arguments.out, arguments.form, arguments.threshold)
    _not_itself(arguments.file, arguments.out)
    began_s = time.monotonic()

    def begun(message: str) -> None:
        nonlocal began_s
        echo(message)
        began_s = time.monotonic()

    with output.reserved(echo, overwrite=arguments.overwrite):
        done = retag_into(
            output,
            arguments.file,
            arguments.pack,
            model=arguments.model,
            top_k=arguments.top_k,
            threshold=arguments.least_score,
            echo=begun,
        )
    output.say_remarks()
    seconds = time.monotonic() - began_s
    message = _("tagged {images:,} images in {seconds:.1f} s")
    echo(message.format(images=done.tagged, seconds=seconds))
    if done.untagged:
        echo(untagged(done.untagged))
    if done.failed:
        message = _("{images:,} images failed before: their records were taken over as they are")
        echo(message.format(images=done.failed))
    return SOME_FAILED if done.failed or output.unwritten else OK


@verb("producer search tags.parquet 海边的狗 --top 10")
@click.argument("file", type=_FILE)
@click.argument("text")
@option(
    "--top",
    type=Whole(min=1),
    default=20,
    show_default=True,
    help="Number of images to show.",
)
@option("--json", "as_json", is_flag=True, help="Print lines of JSON, for programs.")
@model_option
@broker_option
@exits_with_code
def search(
    file: Path, text: str, top: int, model: str | None, broker: str | None, *, as_json: bool
) -> int:
    """Find the images of FILE that are nearest to TEXT, by the embeddings kept in FILE.

    A worker that is online embeds the text; without one, or with --model, a separate process does.
    """
    need("parquet")
    from producer.cli.output import is_terminal
    from producer.embeddings.search import search_text
    from worker.contract import codec
    from worker.contract.queue.app import make_app
    from worker.contract.settings import Settings

    app = make_app(Settings.from_env(broker_url=broker), stores_results=False)
    for hit in search_text(file, typed(text), top, model, app):
        if as_json:
            line = codec.encode({"path": hit.path, "score": round(hit.score, 6)})
            click.echo(printable_json(line.decode()))
        elif is_terminal(sys.stdout):
            click.echo(f"{hit.score:.4f}  {printable(hit.path)}")
        else:
            # A program wants the name as it is on disk, whatever its bytes.
            click.echo(f"{hit.score:.4f}  ".encode() + os.fsencode(hit.path))
    return OK


def _not_itself(file: Path, out: Place | None) -> None:
    if out is not None and out.file.exists() and out.file.samefile(file):
        msg = _("{file} is the input: choose another --out").format(file=out.file)
        raise click.UsageError(msg)
