"""--out, --format and --overwrite -> where records go, or wrong usage. Verbs that write share them.

A place that holds something is refused unless it may be overwritten; one command writes it at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec

import click

from producer.cli.output import Output, Place, place_of
from producer.formats import ENDINGS, FORMATS, UnknownFormatError, check_writable, target_of
from producer.formats.output_lock import Echo
from producer.sources import stores as urls
from producer.sources.stores import StoreError
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_

P = ParamSpec("P")

NOT_A_FILE: Final = N_("--overwrite replaces a file: give its --out")


def output_options(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --out and --format, which all verbs that write records share."""
    words = f"File or URL for the records ({', '.join(ENDINGS)}). [default: standard output]"
    with_out = click.option("--out", metavar="FILE", callback=_usable, help=words)(command)
    return click.option(
        "--format",
        "form",
        type=click.Choice(list(FORMATS)),
        help="Format of the records. csv-excel has a byte order mark; xmp writes "
        "photo.jpg.xmp beside photo.jpg, xmp-stem writes photo.xmp. [default: "
        "by the ending of --out]",
    )(with_out)


def overwrite_option(command: Callable[P, Any]) -> Callable[P, Any]:
    """Add --overwrite, which all verbs share that write a file from its beginning."""
    words = "Replace the file of --out, whatever it holds; it stays until the first record arrives."
    return click.option("--overwrite", is_flag=True, help=words)(command)


@contextmanager
def reserved(output: Output, out: Place | None, echo: Echo, *, overwrite: bool) -> Iterator[None]:
    """Keep other commands from the output, which holds nothing yet unless it may be overwritten.

    Raises:
        click.UsageError: there is no file to overwrite.
        InUseError: another command writes it.
        ExistingRecordsError: it holds something.
    """
    if overwrite and out is None:
        raise click.UsageError(_(NOT_A_FILE))
    with output.held(echo):
        if not overwrite:
            output.refuse_to_replace(_("choose another --out"))
        yield


def output_of(out: Place | None, form: str | None) -> Output:
    """Return where records and words go.

    Raises:
        click.UsageError: file and format do not belong together, or a package is missing.
    """
    try:
        return Output(target_of(out and out.file, form), out.url if out else "")
    except UnknownFormatError as e:
        raise click.UsageError(str(e)) from e


def _usable(context: click.Context, option: click.Parameter, word: str | None) -> Place | None:
    if word is None:
        return None
    place = place_of(word)
    if not place.url:
        click.Path(dir_okay=False, writable=True).convert(word, option, context)
    try:
        if place.url:
            urls.check(place.url)
        check_writable(place.file)
    except StoreError as e:
        raise click.BadParameter(str(e)) from e
    except OSError as e:
        msg = _("{file} cannot be written: {reason}").format(file=word, reason=e.strerror)
        raise click.BadParameter(msg) from e
    return place
