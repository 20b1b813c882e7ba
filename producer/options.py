"""Words of the command line -> what they mean, or wrong usage. Options that verbs share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import click
import msgspec

from producer.scan import NoSuchPathError, check
from producer.session import Request
from producer.sinks import FORMATS, check_writable
from worker.contract.labels import LabelPack, LabelsError, parse_labels, unique

P = ParamSpec("P")


def broker_option(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --broker, which all verbs share."""
    words = "Redis of the queue, else WANWU_BROKER_URL."
    return click.option("--broker", metavar="URL", help=words)(command)


def out_option(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --out, which all verbs that write records share."""
    words = f"File for the records ({', '.join(FORMATS)}); else standard output."
    kind = click.Path(dir_okay=False, writable=True, path_type=Path)
    return click.option("--out", type=kind, callback=_usable, help=words)(command)


def finite(_context: click.Context, _option: click.Parameter, value: float) -> float:
    """Refuse nan and inf, which click takes for numbers."""
    if not math.isfinite(value):
        msg = "this is no number to compare with"
        raise click.BadParameter(msg)
    return value


def request_of(words: dict[str, Any]) -> Request:
    """Return what `submit` was asked for.

    Raises:
        click.UsageError: options that exclude each other, or a path that leads nowhere.
        LabelsError: labels or templates that cannot be used.
    """
    _exclude(words)
    try:
        check(words["paths"])
    except NoSuchPathError as e:
        raise click.UsageError(str(e)) from e
    return Request(
        paths=words["paths"],
        pack=msgspec.structs.replace(_labels(words), templates=words["template"]),
        top_k=words["top_k"],
        threshold=words["threshold"],
        as_blobs=words["blobs"],
        chunk_images=words["chunk"],
    )


def _exclude(words: dict[str, Any]) -> None:
    problem = None
    if words["labels"] and words["label"]:
        problem = "give --labels or --label, not both"
    elif words["model"] and not words["embedded"]:
        problem = "--model is for --embedded; a worker of yours takes it at: worker start --model"
    elif words["flower"] and not words["embedded"]:
        problem = "--flower is for --embedded; beside a Redis of yours run: ops/flower"
    elif words["embedded"] and (words["no_wait"] or words["broker"]):
        problem = "--embedded ends with this command: it takes neither --no-wait nor --broker"
    elif words["resume"] and not words["out"]:
        problem = "--resume goes on with a file: give its --out"
    elif words["no_wait"] and words["out"]:
        problem = "--no-wait leaves before there are records: fetch them with producer results"
    if problem:
        raise click.UsageError(problem)


def _labels(words: dict[str, Any]) -> LabelPack:
    file: Path | None = words["labels"]
    if file is None:
        labels = unique(words["label"])
        if words["label"] and not labels:
            msg = "--label: it is blank"
            raise LabelsError(msg)
        return LabelPack(labels)
    try:
        return parse_labels(file.read_text(encoding="utf-8"))
    except (LabelsError, UnicodeDecodeError, OSError) as e:
        msg = f"{file}: {e}"
        raise LabelsError(msg) from e


def _usable(_context: click.Context, _option: click.Parameter, out: Path | None) -> Path | None:
    if out is None:
        return None
    if out.suffix.lower() not in FORMATS:
        msg = f"the ending must be one of {', '.join(FORMATS)}"
        raise click.BadParameter(msg)
    try:
        check_writable(out)
    except OSError as e:
        msg = f"{out} cannot be written: {e.strerror}"
        raise click.BadParameter(msg) from e
    return out
