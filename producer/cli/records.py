"""Click verbs of `producer` that need no queue: they work on files of records, and on sidecars."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from producer.cli.exit_codes import OK, SOME_FAILED, echo, exits_with_code
from producer.cli.options import broker_option, label_options, model_option, pack_of, threshold_of
from producer.cli.output import Place
from producer.cli.output_options import output_of, output_options, overwrite_option, reserved
from producer.console.paths import printable
from producer.embeddings.text_encoder import Asked, Encoding
from producer.formats import form_of, records_of, target_of
from producer.formats.xmp_untag import find_sidecars
from producer.formats.xmp_untag import untag as take_out
from worker.contract import codec as wire
from worker.contract.extras import need
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack
from worker.contract.queue.app import make_app
from worker.contract.settings import Settings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog="Example: producer convert tags.jsonl --out tags.parquet")
@click.argument("file", type=_FILE)
@output_options
@overwrite_option
@exits_with_code
def convert(file: Path, out: Place | None, form: str | None, *, overwrite: bool) -> int:
    """Write the records of FILE in another format, or as sidecars beside the images."""
    output = output_of(out, form)
    _not_itself(file, out)
    count = 0
    with reserved(output, out, echo, overwrite=overwrite), output.sink() as sink:
        for record in records_of(file):
            sink.write(record)
            count += 1
    output.deliver()
    for remark in output.remarks():
        echo(remark)
    echo(_("converted {records:,} records").format(records=count))
    return SOME_FAILED if output.unwritten else OK


@click.command(epilog="Example: producer untag ./images")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True))
@exits_with_code
def untag(paths: tuple[str, ...]) -> int:
    """Remove our keywords from XMP sidecars, in directories or of single images."""
    target_of(None, "xmp")

    def skipped(directory: str, error: OSError) -> None:
        echo(
            _("skipped: {directory} cannot be listed: {reason}").format(
                directory=printable(directory), reason=error.strerror
            )
        )

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


@click.command(epilog="Example: producer retag tags.parquet --labels new.txt --out new.parquet")
@click.argument("file", type=_FILE)
@label_options
@model_option
@output_options
@overwrite_option
@exits_with_code
def retag(file: Path, out: Place | None, form: str | None, model: str | None, **words: Any) -> int:
    """Tag the images of FILE with other labels, from the embeddings kept in FILE."""
    need("parquet")
    from producer.embeddings import retag as by_columns  # noqa: PLC0415 - only here
    from producer.embeddings.ranking import Ranker  # noqa: PLC0415

    output, pack = output_of(out, form), pack_of(words)
    _not_itself(file, out)
    how: dict[str, Any] = {
        "labels": pack.hash if pack != LabelPack() else None,
        "threshold": threshold_of(words),
    }
    with reserved(output, out, echo, overwrite=words["overwrite"]):
        with Encoding(pack, model) as encoding:
            ranker = Ranker(encoding.result(), top_k=words["top_k"])
        echo(
            _("tagging with {labels:,} labels and model {model}").format(
                labels=len(ranker.told.labels), model=ranker.told.model
            )
        )
        began_s = time.monotonic()
        if out is not None and output.target.format == form_of(file) == "parquet":
            count = by_columns.retag_table(file, out.file, ranker, **how)
        else:
            with output.sink() as sink:
                count = by_columns.retag(file, sink, ranker, **how)
    output.deliver()
    for remark in output.remarks():
        echo(remark)
    echo(
        _("tagged {images:,} images in {seconds:.1f} s").format(
            images=count, seconds=time.monotonic() - began_s
        )
    )
    return SOME_FAILED if output.unwritten else OK


@click.command(epilog="Example: producer search tags.parquet 海边的狗 --top 10")
@click.argument("file", type=_FILE)
@click.argument("text")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of images to show.",
)
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON, for programs.")
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
    from producer.embeddings.search import search as find  # noqa: PLC0415 - only here

    pack = LabelPack((text,), ("{}",))
    app = make_app(Settings.from_env(broker_url=broker), stores_results=False)
    with Encoding(pack, model) if model else Asked(pack, model, app) as encoding:
        hits = find(file, encoding, top)
    for hit in hits:
        if as_json:
            click.echo(wire.encode({"path": hit.path, "score": round(hit.score, 6)}))
        else:
            click.echo(f"{hit.score:.4f}  {printable(hit.path)}")
    return OK


def _not_itself(file: Path, out: Place | None) -> None:
    if out is not None and out.file.exists() and out.file.samefile(file):
        msg = _("{file} is the input: choose another --out").format(file=out.file)
        raise click.UsageError(msg)
