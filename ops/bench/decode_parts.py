"""What one photograph costs on one core, part by part: CPU and page faults.

As a decode process works: freed memory is kept, one thread, no other process waited for.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean, median
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import Image

from worker.artifact.manifest import Preprocessing, open_artifact
from worker.images.decode import decode, set_up
from worker.images.isolated.server import KEPT_BYTES
from worker.malloc import disable_malloc_trim

WHOLE: Final = "all of it"
_MAX_PIXELS: Final = 10**9
# The least scale that a JPEG has: nearly all of its work is then to read the coefficients.
_EIGHTH: Final = 8
_ROUNDS: Final = 7


class Part(NamedTuple):
    """The cost of a part of the work for one image, median of the rounds, mean of the files."""

    ms: float
    faults: float


def parts(paths: Sequence[str], *, fast: bool, rounds: int = _ROUNDS) -> dict[str, Part]:
    """Return the cost of each part, in turns; the last one is the whole as the worker does it."""
    torch.set_num_threads(1)
    disable_malloc_trim(KEPT_BYTES)
    set_up(_MAX_PIXELS)
    spec = open_artifact().manifest.preprocessing
    found: dict[str, list[Part]] = {}
    for path in paths:
        works = _works(path, spec, fast=fast)
        taken: dict[str, list[Part]] = {name: [] for name in works}
        for turn in range(rounds + 1):
            for name, work in works.items():
                cost = _cost(work)
                if turn:
                    taken[name].append(cost)
        for name, costs in taken.items():
            found.setdefault(name, []).append(Part(*map(median, zip(*costs, strict=True))))
    return {name: Part(*map(fmean, zip(*costs, strict=True))) for name, costs in found.items()}


def _works(path: str, spec: Preprocessing, *, fast: bool) -> dict[str, Callable[[], object]]:
    data = Path(path).read_bytes()

    def opened(side: int) -> Image.Image:
        image = Image.open(BytesIO(data))
        if side:
            image.draft(None, (side, side))
        return image

    side = 2 * max(spec.height, spec.width, spec.edge or 0) if fast else 0
    with opened(0) as whole:
        least = min(whole.size) // _EIGHTH
    return {
        "read the file": Path(path).read_bytes,
        "read its header": lambda: opened(side),
        "decode it at an eighth: coefficients": lambda: opened(least).load(),
        "decode it as wanted": lambda: opened(side).load(),
        "the same, and its pixels as an array": lambda: np.asarray(opened(side)),
        WHOLE: lambda: decode(data, spec, max_pixels=_MAX_PIXELS, fast=fast),
    }


def _cost(work: Callable[[], object]) -> Part:
    faults, began_s = _faults(), time.process_time()
    work()
    return Part(1000 * (time.process_time() - began_s), _faults() - faults)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
