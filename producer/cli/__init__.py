"""Click verbs of `producer`: arguments, printing, exit codes; nothing else.

What a verb needs is loaded when it is run, so that help comes at once.
"""

from __future__ import annotations

import os
from typing import Final

import click

from producer.cli.exit_codes import COULD_NOT_RUN, OK, exits_with_code
from producer.cli.jobs import cancel, requeue, results, status
from producer.cli.labels import labels
from producer.cli.options import broker_option
from producer.cli.records import convert, retag, search, untag
from producer.cli.servers import exporter, serve
from producer.cli.submit import submit
from producer.cli.verbs import verb
from producer.cli.watch import watch
from worker.contract.commands import TranslatedGroup, version_option
from worker.contract.i18n import gettext as _
from worker.contract.printable import printable_lines

_STANDARD_ERROR: Final = 2


@click.group(cls=TranslatedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def main() -> None:
    """Send images to be tagged, and collect the tags."""
    from producer.arguments import write_as_options
    from producer.backend.malloc import limit_malloc_arenas

    # Where a standard stream is closed (`>&-`), no file or connection may take its number.
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(number)
    limit_malloc_arenas()
    write_as_options()


@verb("producer doctor ./images")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@broker_option
@exits_with_code
def doctor(paths: tuple[str, ...], broker: str | None) -> int:
    """Check broker, workers, model, clocks, and who may read PATH; say what to do."""
    from rich.cells import set_cell_size

    from producer.monitoring.doctor import examine
    from worker.contract.settings import Settings

    marks = {"ok": _("ok"), "note": _("note"), "fail": _("fail")}
    worst = OK
    for found in examine(Settings.from_env(broker_url=broker), paths):
        click.echo(f"{set_cell_size(marks[found.state], 4)}  {printable_lines(found.what)}")
        if found.todo:
            click.echo(f"      -> {printable_lines(found.todo)}")
        if found.state == "fail":
            worst = COULD_NOT_RUN
    return worst


@verb("producer completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the line that completes commands and options: add it to the shell's start file."""
    lines = {
        "bash": 'eval "$(_PRODUCER_COMPLETE=bash_source producer)"',
        "zsh": 'eval "$(_PRODUCER_COMPLETE=zsh_source producer)"',
        "fish": "_PRODUCER_COMPLETE=fish_source producer | source",
    }
    click.echo(lines[shell])


_VERBS: Final = (
    *(submit, watch, results, status, cancel, requeue),
    *(labels, convert, retag, search, untag, serve, exporter, doctor, completion),
)
for command in _VERBS:
    main.add_command(command)
