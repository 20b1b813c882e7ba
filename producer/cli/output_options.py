"""--out, --format and --overwrite -> where records go, or wrong usage."""

from __future__ import annotations

from typing import Final

import click

from producer.cli.options import OUTPUT
from producer.cli.verbs import Command, option
from producer.errors import StoreError
from producer.formats import ENDINGS, FORMATS, check_writable
from producer.formats.output import Place, place_of
from producer.sources import stores as urls
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.number_types import Number
from worker.contract.options import Rule
from worker.contract.reasons import os_reason

OVERWRITE_RULE: Final = Rule(
    "overwrite", N_("--overwrite replaces a file: give its --out"), needs=("out",)
)


def output_options(command: Command) -> Command:
    """Add --out and --format, which all verbs that write records share."""
    with_form = option(
        "--format",
        "form",
        type=click.Choice(list(FORMATS)),
        section=OUTPUT,
        help="Format of the records. csv-excel has a byte order mark; xmp writes "
        "photo.jpg.xmp beside photo.jpg, xmp-stem writes photo.xmp. [default: "
        "by the ending of --out]",
    )(command)
    return option(
        "--out",
        metavar="FILE",
        callback=_usable,
        section=OUTPUT,
        help=f"File or URL for the records ({', '.join(ENDINGS)}). [default: standard output]",
    )(with_form)


def threshold_option(command: Command) -> Command:
    """Add --threshold, for verbs that write records which were tagged before."""
    return option(
        "--threshold",
        type=Number(0, 1),
        section=OUTPUT,
        help="Lowest score of a tag that is written, 0 to 1. [default: 0; 0.5 in sidecars]",
    )(command)


def overwrite_option(command: Command) -> Command:
    """Add --overwrite, which all verbs share that write a file from its beginning."""
    return option(
        "--overwrite",
        is_flag=True,
        section=OUTPUT,
        help="Replace the file of --out, whatever it holds; it stays until the first record "
        "arrives.",
    )(command)


def _usable(context: click.Context, parameter: click.Parameter, name: str | None) -> Place | None:
    if name is None:
        return None
    place = place_of(name)
    if not place.url:
        click.Path(dir_okay=False, writable=True).convert(name, parameter, context)
    try:
        if place.url:
            urls.check(place.url)
        check_writable(place.file)
    except StoreError as e:
        raise click.BadParameter(str(e)) from e
    except OSError as e:
        msg = _("{file} cannot be written: {reason}").format(file=name, reason=os_reason(e))
        raise click.BadParameter(msg) from e
    return place
