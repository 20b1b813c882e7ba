"""What is asked of precisions below float32."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from worker.model.precision import ACCEPTED


class Gate(NamedTuple):
    """A least cosine, on the pictures of a directory; else on those that come with the program."""

    accepted: float = ACCEPTED
    pictures: Path | None = None


def gate_of(accepted: float | None, pictures: Path | None) -> Gate | None:
    """Return a gate of what was given; None, should nothing be."""
    if accepted is None and pictures is None:
        return None
    return Gate(ACCEPTED if accepted is None else accepted, pictures)
