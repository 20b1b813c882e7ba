"""Options that verbs share, and what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from producer.cli.exit_codes import echo
from producer.cli.verbs import Command, Decorator, option
from producer.jobs.labels import Labels, label_pack
from producer.jobs.options import MOST_TAGS
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.labels import LabelPack, LabelsError, least_score, unique
from worker.contract.messages import PRIORITIES
from worker.contract.number_types import Number, Whole
from worker.contract.options import Rule
from worker.contract.printable import printable
from worker.contract.vocabularies import find_vocabulary

LABELS: Final = N_("Labels")
OUTPUT: Final = N_("Output")
SENDING: Final = N_("Sending")
WORKERS: Final = N_("Workers")
LABEL_RULES: Final = (
    Rule("labels", N_("give --labels or --label, not both"), excludes=("label",)),
    Rule("background", N_("--background needs --calibrated"), needs=("calibrated",)),
)


class LabelArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What `label_options` add."""

    labels: Path | None
    label: tuple[str, ...]
    template: tuple[str, ...]
    top_k: int
    threshold: float | None
    calibrated: bool
    background: Path | None

    @property
    def pack(self) -> LabelPack:
        """The label set; empty for the model's own.

        Raises:
            LabelsError: labels or templates cannot be used.
        """
        if self.label and not unique(self.label):
            msg = _("--label is blank")
            raise LabelsError(msg)
        labels: Labels = self.labels or tuple(map(typed, self.label))
        return label_pack(
            labels,
            templates=tuple(map(typed, self.template)),
            calibrated=self.calibrated,
            background=self.background,
        )

    @property
    def least_score(self) -> float:
        """The lowest score of a tag."""
        return least_score(self.threshold, calibrated=self.calibrated)


def typed(text: str) -> str:
    """Return an argument as it was typed, in UTF-8: Python reads it by the locale, maybe ASCII."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


class LabelFile(click.Path):
    """A label file, or the name of a vocabulary, which stands for the vocabulary's file.

    The vocabulary comes first: a command means the same in every directory. As no vocabulary has a
    slash or a dot in its name, `./general` and `general.txt` are always files.
    """

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the file that is meant."""
        name = typed(os.fspath(value))
        try:
            found = find_vocabulary(name)
        except LabelsError as e:
            raise click.BadParameter(str(e), ctx, param) from e
        if found:
            if Path(value).exists():
                message = _("{name} is the vocabulary; the file of that name is ./{name}")
                echo(message.format(name=name))
            return found.file
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as e:
            if {".", "/"} & set(name):
                raise
            message = _("{reason} Nor is it a vocabulary: producer labels lists them.")
            raise click.BadParameter(message.format(reason=e.message), ctx, param) from e


def job_argument(*, required: bool = True) -> Decorator:
    """Return what adds JOB, the id of a job, as any terminal and Redis can have it."""
    return click.argument("job", required=required, callback=_job)


def broker_option(command: Command) -> Command:
    """Add --broker, which all verbs share that need the queue."""
    return option(
        "--broker",
        metavar="URL",
        section=WORKERS,
        help="URL of the Redis of the queue. [default: WANWU_BROKER_URL]",
    )(command)


def address_options(port: int) -> Decorator:
    """Return what adds --port and --address, which all verbs share that are servers."""

    def add(command: Command) -> Command:
        with_address = option(
            "--address",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on; 0.0.0.0 to be reachable from other machines.",
        )(command)
        return option(
            "--port",
            type=Whole(1, 65535),
            default=port,
            show_default=True,
            help="Port to listen on.",
        )(with_address)

    return add


def priority_option(command: Command) -> Command:
    """Add --priority, which all verbs share that send jobs."""
    return option(
        "--priority",
        type=click.Choice(PRIORITIES),
        default="normal",
        show_default=True,
        section=SENDING,
        help="Share of the workers beside other jobs: low is a quarter of normal, high four times "
        "as much.",
    )(command)


def model_option(command: Command) -> Command:
    """Add --model, for verbs that load one themselves."""
    return option(
        "--model",
        metavar="ARTIFACT|DIR|ID",
        section=WORKERS,
        help="Artifact that made the embeddings. [default: WANWU_MODEL, else bundled]",
    )(command)


def label_options(command: Command) -> Command:
    """Add the labels, their template, and what limits the tags, which all verbs that tag share."""
    for add in reversed(_LABEL_OPTIONS):
        command = add(command)
    return command


_LABEL_OPTIONS: Final = (
    option(
        "--labels",
        type=LabelFile(),
        metavar="FILE|NAME",
        section=LABELS,
        help="Label file, one label per line; or a vocabulary, such as general: see producer "
        "labels.",
    ),
    option(
        "--label",
        multiple=True,
        metavar="TEXT",
        section=LABELS,
        help="A label; may be repeated.",
    ),
    option(
        "--template",
        multiple=True,
        metavar="TEXT",
        section=LABELS,
        help="Prompt with {} in place of the label; may be repeated, and the prompts are averaged. "
        "[default: the model's own]",
    ),
    option(
        "--top-k",
        type=Whole(1, MOST_TAGS),
        default=5,
        show_default=True,
        section=LABELS,
        help="Most tags per image.",
    ),
    option(
        "--threshold",
        type=Number(0, 1),
        section=LABELS,
        help="Lowest score of a tag, 0 to 1. [default: 0; 0.5 with --calibrated, and in sidecars]",
    ),
    option(
        "--calibrated",
        is_flag=True,
        section=LABELS,
        help="Score each label by itself, against words for all else that images may show: an "
        "image may have several labels, or none.",
    ),
    option(
        "--background",
        type=LabelFile(),
        metavar="FILE|NAME",
        section=LABELS,
        help="File of these words, one per line, or a vocabulary. [default: the model's labels, "
        "else general ones]",
    ),
)


def _job(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    if name is None:
        return None
    if not name.strip():
        msg = _("the id of a job cannot be empty: producer status lists them")
        raise click.BadParameter(msg)
    return printable(name)
