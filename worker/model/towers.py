"""transformers model -> the modules that are traced: what goes in is uint8 or token ids, no more.

Shapes: N images or texts, C channels, H x W pixels, L tokens, D embedding dimensions, K classes.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The model_type of models with two towers, images and texts, each a part that runs by itself.
ZERO_SHOT: Final = ("chinese_clip", "clip", "siglip", "metaclip_2", "altclip")


class Scaled(nn.Module):
    """uint8 pixels NCHW -> what the model was trained on, float32; `mean`, `std` are of 0..1."""

    factor_C11: Tensor
    offset_C11: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        mean_C11, std_C11 = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        self.register_buffer("factor_C11", 1 / (255 * std_C11))
        self.register_buffer("offset_C11", -mean_C11 / std_C11)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Scale and shift."""
        return pixels_NCHW.to(torch.float32) * self.factor_C11 + self.offset_C11


class ImageTower(nn.Module):
    """uint8 NCHW -> float32 unit embeddings ND; normalisation is part of the graph."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.scaled = Scaled(mean, std)
        self.vision_model = model.vision_model
        # SigLIP has no projection: its pooling head ends in the common space.
        self.projection = getattr(model, "visual_projection", nn.Identity())
        self.dtype = torch.float32

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Embed images."""
        values = self.scaled(pixels_NCHW).to(self.dtype)
        pooled_ND = self.vision_model(pixel_values=values, return_dict=False)[1]
        return F.normalize(self.projection(pooled_ND).to(torch.float32), dim=-1)


class ClassifierTower(nn.Module):
    """uint8 NCHW -> float32 logits NK of a classifier whose classes are fixed."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.scaled = Scaled(mean, std)
        self.model = model
        self.dtype = torch.float32

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Classify images."""
        values = self.scaled(pixels_NCHW).to(self.dtype)
        logits_NK: Tensor = self.model(pixel_values=values, return_dict=False)[0]
        return logits_NK.to(torch.float32)


class ConceptTower(nn.Module):
    """uint8 NCHW -> float32 unit rows ND of the bundled model, which scales in float32."""

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.scaled = Scaled(mean, std)
        self.model = model
        self.dtype = torch.float32

    @property
    def exact(self) -> nn.Module:
        """What stays in float32 whatever the network computes in: probabilities need it."""
        readout: nn.Module = self.model.get_submodule("readout")
        return readout

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Embed images."""
        rows_ND: Tensor = self.model(self.scaled(pixels_NCHW).to(self.dtype))
        return rows_ND


class TextTower(nn.Module):
    """Token ids NL and attention mask NL, both int64 -> float32 unit embeddings ND.

    A model whose tokenizer gives no mask, such as SigLIP's, is not given one: `is_masked` is false.
    """

    def __init__(self, model: Any, *, is_masked: bool) -> None:
        super().__init__()
        self.model = model
        self._is_masked = is_masked

    def forward(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """Embed texts."""
        mask = {"attention_mask": mask_NL} if self._is_masked else {}
        embeddings_ND = pooled(self.model.get_text_features(input_ids=ids_NL, **mask))
        return F.normalize(embeddings_ND.to(torch.float32), dim=-1)


def pooled(features: Any) -> Tensor:
    """Return the embeddings ND in what a model's `get_text_features` and the like return."""
    found: Tensor = getattr(features, "pooler_output", features)
    return found
