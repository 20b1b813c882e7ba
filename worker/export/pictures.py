"""Whole pictures through the artifact and through the model's own processor, compared."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from worker.contract.i18n import gettext_noop as N_
from worker.engines.base import Engine
from worker.engines.infer import infer
from worker.errors import ExportError
from worker.export.recipe import Recipe
from worker.export.reference import image_rows, values_of
from worker.export.synthetic import picture
from worker.images.resize import fit
from worker.model.hub import Loaded
from worker.model.precision import ACCEPTED

# What the rounding of two resizers may cost beside a lower precision.
_ROUNDING: Final = 0.001
_SIZES: Final = ((640, 480), (333, 500), (97, 401), (60, 50))


def compare_pictures(
    loaded: Loaded, recipe: Recipe, engine: Engine, accepted: float = ACCEPTED
) -> float:
    """Return the worst cosine of pictures' embeddings with transformers' own.

    It may be a little less than what a precision is `accepted` with.

    Raises:
        ExportError: one is too far from it.
    """
    pictures = [picture(size, seed) for seed, size in enumerate(_SIZES)]
    values = [values_of(loaded.processor, one) for one in pictures]
    wanted = torch.cat([image_rows(loaded.model, one[None]) for one in values]).double()
    ours = [fit(np.array(one), recipe.preprocessing) for one in pictures]
    found = torch.from_numpy(infer(engine, ours)).double()
    cosines = F.cosine_similarity(found, wanted, dim=-1)
    if (worst := float(cosines.min().nan_to_num(-1.0))) < accepted - _ROUNDING:
        width, height = _SIZES[int(cosines.argmin())]
        raise ExportError(
            N_(
                "a picture of {width} x {height} is embedded differently than by the model's own "
                "image processor: cosine {cosine:.4f}"
            ),
            width=width,
            height=height,
            cosine=worst,
        )
    return worst
