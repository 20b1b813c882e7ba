"""The verb `worker export`: a Hugging Face model -> an artifact that workers load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from worker.artifact.model_names import MANIFEST, no_source
from worker.cli.options import EXPORTED, PRECISIONS, device_option
from worker.cli.verbs import echo, exits_with_code, loading, verb
from worker.contract.i18n import gettext as _
from worker.contract.number_types import Number
from worker.contract.settings import Settings
from worker.errors import NoModelError


@verb("worker export --model OFA-Sys/chinese-clip-vit-base-patch16 --out chinese-clip")
@click.option(
    "--model", required=True, metavar="ID|DIR", help="Hugging Face id, or directory, of a model."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Directory of the artifact, replaced if it holds one already. [default: "
    "in the cache, where `worker start --model` with the same ID or DIR "
    "finds it]",
)
@click.option(
    "--precision",
    type=click.Choice(("auto", *PRECISIONS)),
    help="auto takes the fastest one that agrees with the model. [default: auto]",
)
@device_option("Device on which it will run.")
@click.option("--revision", metavar="COMMIT", help="Revision on the hub. [default: the latest]")
@click.option(
    "--engine",
    "engines",
    type=click.Choice(EXPORTED),
    multiple=True,
    help="Engine that the artifact is for; may be repeated: both are measured in turns then, and "
    "workers take the faster one. [default: torchscript; exported on Python 3.14]",
)
@click.option(
    "--calibrate",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Directory of pictures like yours, by which int8 and bf16 are calibrated and judged: half "
    "of some dozens for either. [default: pictures that come with the program]",
)
@click.option(
    "--accept",
    type=Number(0.9, 1.0, max_open=True),
    help="How near to the model's own embeddings those of a precision must be, as a cosine. "
    "[default: 0.999]",
)
@exits_with_code
def export(
    model: str,
    out: Path | None,
    revision: str | None,
    engines: tuple[str, ...],
    calibrate: Path | None,
    accept: float | None,
    **options: Any,
) -> int:
    """Export a Hugging Face model as an artifact, and print where it is.

    The artifact is compared with the model; if they disagree, none is left behind.
    """
    if not model:
        raise click.UsageError(_("no model is named: give --model an id or a directory"))
    if out and out.exists() and not (out / MANIFEST).exists() and any(out.iterdir()):
        msg = _("{out} holds something else than an artifact, which would be replaced")
        raise click.UsageError(msg.format(out=out))
    settings = Settings.from_env(model=model, **options)
    if problem := no_source(model):
        raise NoModelError(problem)
    with loading():
        from worker.export.gate import gate_of
        from worker.export.on_first_use import export_to

    gate, names = gate_of(accept, calibrate), tuple(dict.fromkeys(engines))
    click.echo(export_to(out, settings, revision, echo, names, gate))
    return 0
