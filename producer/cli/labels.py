"""The verb `producer labels`: the vocabularies, which are label sets that come with the program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from producer.cli.exit_codes import OK, exits_with_code
from producer.cli.options import typed
from producer.cli.verbs import verb
from producer.errors import UsageError
from worker.contract.i18n import ENGLISH, language_in_use
from worker.contract.i18n import gettext as _
from worker.contract.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

_PIPE_COLUMNS: Final = 200


@verb("producer labels general > labels.txt")
@click.argument("name", required=False)
@exits_with_code
def labels(name: str | None) -> int:
    """List the vocabularies, label sets for --labels that come with this program; or print NAME."""
    from producer.cli.output import is_terminal
    from producer.console.printable_console import PrintableConsole

    if name is not None:
        # As it is, in UTF-8 whatever the locale: it can be edited and given back.
        click.echo(_file_of(typed(name)).read_bytes(), nl=False)
        return OK
    console = PrintableConsole(width=None if is_terminal(sys.stdout) else _PIPE_COLUMNS)
    console.print(_table())
    return OK


def _file_of(name: str) -> Path:
    from worker.contract.vocabularies import NAMES, find_vocabulary

    if found := find_vocabulary(name):
        return found.file
    message = _("no vocabulary has the name {name}; there are: {names}")
    raise UsageError(message.format(name=printable(name), names=", ".join(NAMES)))


def _table() -> Table:
    from rich.table import Table
    from rich.text import Text

    from worker.contract.vocabularies import vocabularies

    in_english = language_in_use() == ENGLISH
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in (_("name"), _("Chinese name")):
        table.add_column(heading, no_wrap=True)
    table.add_column(_("labels"), justify="right", no_wrap=True)
    table.add_column(_("version"), no_wrap=True)
    table.add_column(_("for"))
    for one in vocabularies():
        count = f"{len(one.read_pack().labels):,}"
        purpose = one.purpose if in_english else one.chinese_purpose
        table.add_row(*map(Text, (one.name, one.chinese_name, count, one.version, purpose)))
    return table
