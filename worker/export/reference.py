"""What transformers itself answers: a model fed by its own image processor and tokenizer.

Nothing that goes in is of our making, so an assumption of ours that is wrong shows as a difference.

Shapes: N images or texts, C channels, H x W pixels, D embedding dimensions, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from worker.model.towers import pooled

# Models that were trained on texts padded to the full length, without a mask: their processors and
# pipelines pad so.
_PADDED_WHOLE: Final = frozenset({"siglip"})


def image_rows(model: Any, values_NCHW: Tensor) -> Tensor:
    """Return unit embeddings ND of what an image processor gave, or a classifier's logits NK."""
    with torch.no_grad():
        if not hasattr(model, "get_image_features"):
            logits_NK: Tensor = model(pixel_values=values_NCHW).logits
            return logits_NK
        return F.normalize(pooled(model.get_image_features(pixel_values=values_NCHW)), dim=-1)


def text_rows(model: Any, tokens: Any) -> Tensor:
    """Return unit embeddings ND of what a tokenizer gave, whatever it gave."""
    with torch.no_grad():
        return F.normalize(pooled(model.get_text_features(**tokens)), dim=-1)


def tokens_of(model: Any, tokenizer: Any, texts: Sequence[str], length: int) -> Any:
    """Return what the tokenizer gives for texts, cut at `length` tokens."""
    whole = model.config.model_type in _PADDED_WHOLE
    return tokenizer(
        list(texts),
        padding="max_length" if whole else True,
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )


def values_of(processor: Any, image: Image.Image) -> Tensor:
    """Return the values CHW that an image processor gives for a picture."""
    values_1CHW: Tensor = processor(images=image, return_tensors="pt")["pixel_values"]
    return values_1CHW[0]


def values_of_fitted(processor: Any, images_NCHW: Tensor) -> Tensor:
    """Return the values NCHW that a processor gives for uint8 pixels of the model's own size.

    Its resizing and cropping are left out: they would resize again.
    """
    pictures = [Image.fromarray(np.asarray(one.permute(1, 2, 0))) for one in images_NCHW]
    if (transforms := getattr(processor, "val_transforms", None)) is not None:
        return torch.stack([_scaled(transforms.transforms, picture) for picture in pictures])
    values_NCHW: Tensor = processor(
        images=pictures, do_resize=False, do_center_crop=False, return_tensors="pt"
    )["pixel_values"]
    return values_NCHW


def _scaled(steps: Sequence[Any], picture: Image.Image) -> Tensor:
    """Return the values CHW after the steps of timm's transforms that do not change the size."""
    found: Any = picture
    for step in steps:
        if not type(step).__name__.startswith(("Resize", "CenterCrop")):
            found = step(found)
    values_CHW: Tensor = found
    return values_CHW
