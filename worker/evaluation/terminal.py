"""An evaluation -> sentences and tables on a terminal."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.contract.printable import printable
from worker.evaluation.evaluation import Evaluation
from worker.evaluation.sheets import Sheet, sentences, sheets

_MOST_ROWS: Final = 20


def show(found: Evaluation, console: Console) -> None:
    """Print it; long tables are cut."""
    for sentence in sentences(found):
        console.print(Text(printable(sentence)))
    if found.figures is not None:
        for sheet in sheets(found.figures, _MOST_ROWS):
            console.print(_table(sheet))


def _table(sheet: Sheet) -> Table:
    table = Table(title=Text(sheet.title), title_justify="left")
    for number, name in enumerate(sheet.columns):
        table.add_column(Text(name), justify="left" if number < sheet.texts else "right")
    for row in sheet.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
