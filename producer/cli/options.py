"""Words of the command line -> what they mean, or wrong usage. Options that verbs share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec

import click
import msgspec

from producer.cli.output_options import NOT_A_FILE
from producer.console.paths import printable
from producer.formats import Target
from producer.jobs.run import Request
from producer.sources.scan import NoSuchPathError, check
from producer.sources.stores import is_url
from worker.contract.i18n import gettext as _
from worker.contract.labels import (
    CALIBRATED_THRESHOLD,
    LabelPack,
    LabelsError,
    parse_labels,
    unique,
)

P = ParamSpec("P")

# More than any label set has labels.
MOST_TAGS: Final = 100_000


def finite(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Refuse nan and inf, which click takes for numbers."""
    if value is not None and not math.isfinite(value):
        msg = _("this is not a finite number")
        raise click.BadParameter(msg)
    return value


def job_argument(*, required: bool = True) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Return what adds JOB, the id of a job, as any terminal and Redis can have it."""
    return click.argument("job", required=required, callback=_job)


def broker_option(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --broker, which all verbs share."""
    words = "URL of the Redis of the queue. [default: WANWU_BROKER_URL]"
    return click.option("--broker", metavar="URL", help=words)(command)


def _job(_context: click.Context, _option: click.Parameter, word: str | None) -> str | None:
    if word is None:
        return None
    if not word.strip():
        msg = _("the id of a job cannot be empty: producer status lists them")
        raise click.BadParameter(msg)
    return printable(word)


def address_options(port: int) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Return what adds --port and --address, which all verbs that answer share."""

    def add(command: Callable[P, Any]) -> Callable[P, Any]:
        with_address = click.option(
            "--address",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; 0.0.0.0 to be reachable from other machines.",
        )(command)
        return click.option(
            "--port",
            type=click.IntRange(1, 65535),
            default=port,
            show_default=True,
            help="Port to listen on.",
        )(with_address)

    return add


def model_option(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --model, for verbs that load one themselves."""
    words = "Artifact that made the embeddings. [default: WANWU_MODEL, else bundled]"
    return click.option("--model", metavar="ARTIFACT|DIR|ID", help=words)(command)


def label_options(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add the labels, their template, and what limits the tags, which all verbs that tag share."""
    for option in reversed(
        (
            click.option(
                "--labels",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="Label file, one label per line.",
            ),
            click.option(
                "--label", multiple=True, metavar="TEXT", help="A label; may be repeated."
            ),
            click.option(
                "--template",
                multiple=True,
                metavar="TEXT",
                help="Prompt with {} in place of the label; several are averaged. [default: "
                "the model's own]",
            ),
            click.option(
                "--top-k",
                type=click.IntRange(1, MOST_TAGS),
                default=5,
                show_default=True,
                help="Most tags per image.",
            ),
            click.option(
                "--threshold",
                type=click.FloatRange(0, 1),
                callback=finite,
                help="Lowest score of a tag, 0 to 1. [default: 0; 0.5 with --calibrated]",
            ),
            click.option(
                "--calibrated",
                is_flag=True,
                help="Score each label by itself, against words for all else that images may "
                "show: an image may have several labels, or none.",
            ),
            click.option(
                "--background",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="File of these words, one per line. [default: the model's labels, else "
                "general ones]",
            ),
        )
    ):
        command = option(command)
    return command


def request_of(words: dict[str, Any], target: Target) -> Request:
    """Return what `submit` was asked for, as far as the target can hold it.

    Raises:
        click.UsageError: options that exclude each other, or a path that leads nowhere.
        LabelsError: labels or templates that cannot be used.
    """
    _exclude(words, target)
    try:
        check(words["paths"])
    except NoSuchPathError as e:
        raise click.UsageError(str(e)) from e
    return Request(
        paths=words["paths"],
        pack=pack_of(words),
        top_k=words["top_k"],
        threshold=threshold_of(words),
        as_blobs=words["blobs"],
        chunk_images=words["chunk"],
        embeddings=words["embeddings"],
        thumbnail_px=target.form.thumbnail_px,
    )


def pack_of(words: dict[str, Any]) -> LabelPack:
    """Return the label set that the words of `label_options` mean; empty for the model's own.

    Raises:
        click.UsageError: two of them exclude each other.
        LabelsError: labels or templates that cannot be used.
    """
    if words["labels"] and words["label"]:
        msg = _("give --labels or --label, not both")
        raise click.UsageError(msg)
    if words["background"] and not words["calibrated"]:
        msg = _("--background needs --calibrated")
        raise click.UsageError(msg)
    file = words["background"]
    return msgspec.structs.replace(
        _labels(words),
        templates=words["template"],
        calibrated=words["calibrated"],
        background=_read(file).labels if file else (),
    )


def threshold_of(words: dict[str, Any]) -> float:
    """Return the lowest score of a tag."""
    given: float | None = words["threshold"]
    if given is not None:
        return given
    return CALIBRATED_THRESHOLD if words["calibrated"] else 0.0


def _exclude(words: dict[str, Any], target: Target) -> None:
    leaves, own = words["no_wait"], not words["embedded"]
    rules = (
        (
            words["model"] and own,
            _("--model needs --embedded; your own worker takes it as: worker start --model"),
        ),
        (
            words["flower"] and own,
            _("--flower needs --embedded; for your own Redis run: ops/flower"),
        ),
        (
            not own and (leaves or words["broker"]),
            _("--embedded ends with this command: it excludes --no-wait and --broker"),
        ),
        (
            words["http"] and (not own or leaves or words["broker"] or words["blobs"]),
            _(
                "--http sends bytes to a server: it excludes --blobs, --broker, --no-wait "
                "and --embedded"
            ),
        ),
        (
            words["resume"] and not (words["out"] or target.in_sidecars),
            _("--resume continues a file: give its --out"),
        ),
        (words["overwrite"] and not words["out"], _(NOT_A_FILE)),
        (
            words["overwrite"] and words["resume"],
            _("--resume keeps the records of the file, --overwrite drops them: give one of them"),
        ),
        (words["retry_failed"] and not words["resume"], _("--retry-failed needs --resume")),
        (
            words["embeddings"] and not target.form.embeddings,
            _("--embeddings needs a .jsonl or .parquet file"),
        ),
        (
            words["blobs"] and any(map(is_url, words["paths"])),
            _("workers fetch URLs themselves: leave out --blobs"),
        ),
        (
            leaves and (words["out"] or words["form"]),
            _("--no-wait exits before there are records: get them with producer results"),
        ),
    )
    for broken, words_of_it in rules:
        if broken:
            raise click.UsageError(words_of_it)


def _labels(words: dict[str, Any]) -> LabelPack:
    file: Path | None = words["labels"]
    if file is None:
        labels = unique(words["label"])
        if words["label"] and not labels:
            msg = _("--label is blank")
            raise LabelsError(msg)
        return LabelPack(labels)
    return _read(file)


def _read(file: Path) -> LabelPack:
    try:
        return parse_labels(file.read_text(encoding="utf-8"))
    except (LabelsError, UnicodeDecodeError, OSError) as e:
        msg = f"{file}: {e}"
        raise LabelsError(msg) from e
