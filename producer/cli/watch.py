"""The verb `producer watch`: its options. What it does is in `run_watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from producer.cli.exit_codes import exits_with_code
from producer.cli.options import (
    LABEL_RULES,
    WORKERS,
    LabelArguments,
    broker_option,
    label_options,
    priority_option,
)
from producer.cli.output_options import output_options
from producer.cli.verbs import option, takes, verb
from producer.formats.output import Place
from producer.sources.watch import SETTLE_S
from worker.contract.i18n import gettext_noop as N_
from worker.contract.messages import Priority
from worker.contract.number_types import Number
from worker.contract.options import Rule

_EMBEDDED: Final = N_(
    "--embedded runs a Redis and a worker of its own: --model needs it, --broker excludes it"
)
_RULES: Final = (
    *LABEL_RULES,
    Rule("embedded", _EMBEDDED, excludes=("broker",)),
    Rule("model", _EMBEDDED, needs=("embedded",)),
)


class WatchArguments(LabelArguments, frozen=True, kw_only=True):
    """What was typed."""

    directory: Path
    out: Place | None
    form: str | None
    settle_seconds: float
    priority: Priority
    embedded: bool
    model: str | None
    broker: str | None


@verb("producer watch ./inbox --format xmp --calibrated", rules=_RULES)
@click.argument(
    "directory",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
)
@label_options
@output_options
@option(
    "--settle-seconds",
    old=["--settle"],
    type=Number(min=0),
    default=SETTLE_S,
    show_default=True,
    help="Seconds for which a file must not change before it is sent.",
)
@priority_option
@option(
    "--embedded",
    is_flag=True,
    section=WORKERS,
    help="Run a private Redis and a worker for this command.",
)
@option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    section=WORKERS,
    help="Model of the --embedded worker.",
)
@broker_option
@exits_with_code
@takes(WatchArguments)
def watch(arguments: WatchArguments) -> int:
    """Tag images in DIRECTORY that are not done yet, then those that arrive, until interrupted."""
    from producer.cli.run_watch import run

    return run(arguments)
