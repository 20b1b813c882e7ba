"""Cells that a spreadsheet would run as a formula <-> the same with an apostrophe before them.

A spreadsheet takes a cell that begins with one of these signs for a formula, which can read other
cells and call a server; files and labels may be called so by anybody. An apostrophe says that it is
text. One is added too where some stand before such a sign already, so that each text comes back.
"""

from __future__ import annotations

import re
from typing import Final

# Those of a Chinese or Japanese keyboard count as well.
_FORMULA: Final = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_TEXT_SIGN: Final = "'"


def defused(text: str) -> str:
    """Return a cell that is text for a spreadsheet, too."""
    return f"{_TEXT_SIGN}{text}" if _FORMULA.match(text) else text


def true_text(cell: str) -> str:
    """Return the text that `defused` was given."""
    is_defused = cell.startswith(_TEXT_SIGN) and _FORMULA.match(cell)
    return cell[1:] if is_defused else cell
