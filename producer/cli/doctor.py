"""The verb `producer doctor`: what stands in the way of tagging, and what to do about it."""

from __future__ import annotations

import click

from producer.cli.exit_codes import COULD_NOT_RUN, OK, exits_with_code
from producer.cli.options import broker_option
from producer.cli.verbs import verb
from worker.contract.i18n import gettext as _
from worker.contract.printable import printable_lines


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
