"""The verb `worker evaluate`: how right a model is, on pictures whose labels are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from worker.cli.options import device_option, file_option, model_option, read_settings
from worker.cli.verbs import echo, exits_with_code, loading, verb
from worker.contract.number_types import Number


@verb("worker evaluate ./photos --labels labels.txt --html mistakes.html")
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--truth",
    type=click.Choice(("folders", "captions")),
    help="What says what a picture in a directory shows: its folder's name, or a .txt file of its "
    "own name. [default: captions if there is any, else folders]",
)
@model_option
@device_option("Device to measure on.")
@click.option(
    "--labels",
    metavar="FILE|NAME",
    help="Label file, or a vocabulary by its name. [default: the model's own labels]",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="Prompt with {} for the label; may be repeated. [default: the model's own]",
)
@click.option("--calibrated", is_flag=True, help="Score each label by itself.")
@click.option(
    "--threshold",
    type=Number(0, 1),
    help="Lowest score of a tag, 0 to 1. [default: 0.5; 0 with --labels alone]",
)
@file_option("json", "Write all figures to this JSON file.")
@file_option("html", "Write tables and the worst mistakes, with thumbnails, to this HTML file.")
@exits_with_code
def evaluate(**options: Any) -> int:
    """Measure how right a model is on PICTURES whose labels are known.

    PICTURES is a directory of folders that are named by labels, a directory of pictures with
    captions, or a table (CSV, TSV) with the columns path and label. Prints top-1 and top-5, each
    label, calibration, confusions, and precision and recall at the threshold and at the best one.
    """
    with loading():
        from worker.evaluation.command import Request, run

    request = Request(*(options.pop(name) for name in Request._fields))
    run(request, read_settings(**options), echo)
    return 0
