"""The verb `worker texts`: embeddings of a label set, for the producer."""

from __future__ import annotations

import sys

import click
import msgspec

from worker.cli.options import model_option, read_settings
from worker.cli.verbs import exits_with_code, loading, verb
from worker.contract.reasons import reason


@verb("worker texts --model chinese-clip < labels.json > embeddings")
@model_option
@exits_with_code
def texts(model: str | None) -> int:
    """Embed a label set, for programs: JSON on standard input, a line of JSON and float32 out."""
    settings = read_settings(model=model)
    with loading():
        from worker.service.text_embeddings import encode_texts

    try:
        encode_texts(settings, sys.stdin.buffer, sys.stdout.buffer)
    except msgspec.MsgspecError as e:
        raise click.UsageError(str(reason(str(e)))) from e
    return 0
