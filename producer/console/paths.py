"""Names of several files -> what they are called together, on one line."""

from __future__ import annotations

from collections.abc import Sequence

from worker.contract.printable import printable


def about(names: Sequence[str]) -> str:
    """Return what several names are, on one line."""
    more = f" (+{len(names) - 1:,})" if len(names) > 1 else ""
    return f"{printable(names[0])}{more}"
