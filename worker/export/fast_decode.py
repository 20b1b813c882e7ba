"""Photographs -> whether fast decoding, by a JPEG's own scaling, changes their embeddings.

Shapes: N images, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from worker.artifact.manifest import Preprocessing
from worker.contract.i18n import gettext as _
from worker.export.synthetic import photographs
from worker.images.decode import Pixels, decode

MIN_MEAN_COSINE: Final = 0.999
MIN_COSINE: Final = 0.99
_MAX_PIXELS: Final = 10**9

Embed = Callable[[Sequence[Pixels]], npt.NDArray[np.float32]]


class Agreement(NamedTuple):
    """The cosine between embeddings of fast and of exact decoding: on average, and at worst."""

    mean: float
    worst: float

    @property
    def holds(self) -> bool:
        """Whether fast decoding may replace exact decoding."""
        return self.mean >= MIN_MEAN_COSINE and self.worst >= MIN_COSINE

    def __str__(self) -> str:
        """Return a line for a person."""
        result = _("is the default") if self.holds else _("too far from exact decoding")
        return _("cosine {cosine:.6f}, {result}").format(cosine=self.worst, result=result)

    def parity(self) -> dict[str, Any]:
        """Return the manifest's entries about it."""
        return {"fast_decode_mean_cosine": self.mean, "fast_decode_min_cosine": self.worst}


def agreement(embed: Embed, spec: Preprocessing, files: Sequence[bytes] | None = None) -> Agreement:
    """Decode the files both ways, by default JPEGs of 4 million pixels, and compare embeddings.

    `embed` takes pixels CHW of one image at a time, and returns ND.
    """
    cosines = []
    for data in photographs() if files is None else files:
        fast_ND, exact_ND = (
            torch.from_numpy(
                embed([decode(data, spec, max_pixels=_MAX_PIXELS, fast=mode)])
            ).double()
            for mode in (True, False)
        )
        cosines.append(float(F.cosine_similarity(fast_ND, exact_ND, dim=-1)))
    return Agreement(float(np.mean(cosines)), min(cosines))
