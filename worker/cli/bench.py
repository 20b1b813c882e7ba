"""The verb `worker bench`: how fast a model is here, in every engine and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from worker.cli.options import (
    ENGINES,
    PRECISIONS,
    device_option,
    file_option,
    model_option,
    read_settings,
)
from worker.cli.verbs import echo, exits_with_code, fail, verb
from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.imports import importing
from worker.contract.number_types import Number, Whole


def _precisions(
    context: click.Context, option: click.Parameter, lists: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the precisions of all lists, each once."""
    kind = click.Choice(PRECISIONS)
    named = [name.strip() for one in lists for name in one.split(",")]
    return tuple(dict.fromkeys(kind.convert(name, option, context) for name in named))


@verb("worker bench --model chinese-clip --chart bench.png")
@model_option
@device_option("Device to measure on.")
@click.option("--threads", type=Whole(min=1), help="CPU threads of everything that is measured.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    help="Label to compare by; may be repeated. [default: six words]",
)
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    multiple=True,
    help="File or directory of images to measure with; may be repeated. [default: synthetic "
    "images]",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(ENGINES),
    multiple=True,
    help="Measure only this engine, next to the baselines; may be repeated. [default: all]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="fp32,int8,...",
    callback=_precisions,
    help="Measure only these precisions, next to the baselines; may be repeated. "
    "[default: those of the device]",
)
@click.option(
    "--runs",
    type=Whole(min=1),
    default=100,
    show_default=True,
    help="Calls to measure, for each engine and batch size.",
)
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds after which to stop, even if fewer than --runs are measured.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Find the best batch size for this device; `worker start` uses it from "
    "then on. Engine and precision are those of WANWU_ENGINE and "
    "WANWU_PRECISION, as for `worker start`.",
)
@file_option("json", "Write the figures to this JSON file.")
@file_option("markdown", "Write the figures to this file as a Markdown table.")
@file_option("chart", "Draw the figures to this PNG file.")
@exits_with_code
def bench(**options: Any) -> int:
    """Measure a model in every engine and precision, next to plain transformers.

    Batches of 1 and 4, five warm-up calls, the median; each in a process of its own, all in turns.
    What cannot be measured here is listed with the reason. Ctrl-C or SIGTERM ends with what has
    been measured by then.
    """
    if options["chart_file"] and missing("bench"):
        fail(_("a chart needs matplotlib: {install}").format(install=remedy("bench")))
    # A signal ends it at once until `run` or `tune` keep what has been measured.
    with importing():
        from worker.bench.command import Request, run, tune

    measure = tune if options.pop("tune") else run
    request = Request(*(options.pop(name) for name in Request._fields))
    return measure(request, read_settings(**options), echo)
