"""Train a tiny model of a family for a few seconds, so that its weights are no longer random.

Each label has a picture of its own: stripes of one direction and colour, noise over them. Trained
weights differ in scale from layer to layer and make scores far apart, which random ones do not.

Shapes: N pictures, K labels.
"""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import Any, Final

import torch
from hub_models import LABELS
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
)

STEPS: Final = 300
_SIDE: Final = 64
_RATE: Final = 2e-3
_NOISE: Final = 60


def train(directory: Path, steps: int = STEPS) -> float:
    """Train the model of a directory in place; return its top-1 accuracy on new pictures.

    transformers' own loss is taken where it has one: of pairs for two towers, of classes for one.
    """
    torch.manual_seed(0)
    processor = AutoImageProcessor.from_pretrained(directory)
    model = _loaded(directory).train()
    texts = _texts(directory, model.config.model_type) if _has_two_towers(model) else None
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    for step in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward([_loss(model, _pixels(processor, step), texts)])
        optimizer.step()
    model.eval()
    with torch.no_grad():
        # A seed that no step has used.
        scores_NK = _scores(model, _pixels(processor, steps), texts)
    # Weights alone: timm's own configuration is not what transformers would write.
    model.save_pretrained(directory / "trained")
    (directory / "trained" / "model.safetensors").replace(directory / "model.safetensors")
    found_N = scores_NK[:, : len(LABELS)].argmax(dim=-1)
    return float((found_N == torch.arange(len(LABELS))).float().mean())


def stripes(label: int, seed: int) -> Image.Image:
    """Return a picture of the label, 64 x 64 pixels of RGB; another one for each seed."""
    noise = torch.Generator().manual_seed(seed * len(LABELS) + label)
    place = torch.arange(_SIDE, dtype=torch.float32)
    angle = math.pi * label / len(LABELS)
    along = place[:, None] * math.sin(angle) + place[None, :] * math.cos(angle)
    phase = torch.rand(1, generator=noise) * math.tau
    wave = torch.sin(along / 3 + phase)[..., None] / 4 + 0.6
    colour = torch.tensor(colorsys.hsv_to_rgb(label / len(LABELS), 0.7, 1.0))
    grain = torch.randn(_SIDE, _SIDE, 3, generator=noise) * _NOISE
    return Image.fromarray((wave * colour * 255 + grain).clamp(0, 255).byte().numpy())


def _loaded(directory: Path) -> Any:
    model = AutoModel.from_pretrained(directory)
    if _has_two_towers(model):
        return model
    return AutoModelForImageClassification.from_pretrained(directory)


def _has_two_towers(model: Any) -> bool:
    return hasattr(model, "get_text_features")


def _texts(directory: Path, kind: str) -> Any:
    processor = AutoProcessor.from_pretrained(directory)
    return processor(
        text=list(LABELS), padding="max_length" if kind == "siglip" else True, return_tensors="pt"
    )


def _pixels(processor: Any, seed: int) -> Tensor:
    """Return a picture of each label, N = K."""
    pictures = [stripes(label, seed) for label in range(len(LABELS))]
    pixels: Tensor = processor(images=pictures, return_tensors="pt").pixel_values
    return pixels


def _scores(model: Any, pixels: Tensor, texts: Any) -> Tensor:
    """Return logits NK."""
    found = model(pixel_values=pixels) if texts is None else model(pixel_values=pixels, **texts)
    scores: Tensor = found.logits if texts is None else found.logits_per_image
    return scores


def _loss(model: Any, pixels: Tensor, texts: Any) -> Tensor:
    if texts is not None:
        loss: Tensor = model(pixel_values=pixels, **texts, return_loss=True).loss
        return loss
    logits_NK = _scores(model, pixels, None)
    wanted_N = torch.arange(len(LABELS))
    if model.config.problem_type == "multi_label_classification":
        wanted_NK = torch.nn.functional.one_hot(wanted_N, logits_NK.shape[-1]).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(logits_NK, wanted_NK)
    return torch.nn.functional.cross_entropy(logits_NK, wanted_N)
