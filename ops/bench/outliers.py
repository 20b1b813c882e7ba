"""Random weights made hard to round as trained ones are: a few large channels, a few large tokens.

Trained transformers have channels of a hundred times the size of others, and tokens with massive
values; random weights have neither, so that int8 looks better on them than it is. Channels are put
in by rescaling that leaves the model's function as it is: what a norm or the values of attention
give is multiplied, the weights that read it are divided. Massive tokens are put in by one unit of
an early layer that fires for few tokens and then strongly: that is another function, as good as any
of random weights.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

_CHANNELS: Final = 6
# How much larger: of trained CLIP towers, factors of 20 to 150 are reported (Dettmers et al., 2022;
# Sun et al., "Massive activations in large language models", 2024).
_LEAST: Final = 20.0
_MOST: Final = 100.0
_UNIT_SHARPNESS: Final = 12.0
_UNIT_RARE: Final = 2.2
_MASSIVE: Final = 3.0
_MASSIVE_CHANNELS: Final = 2
_EARLY: Final = 3


def with_outliers(model: Any) -> Any:
    """Put outliers into a CLIP's image tower, in place, always the same; return the model."""
    dice = torch.Generator().manual_seed(0)
    layers = model.vision_model.encoder.layers
    with torch.no_grad():
        for layer in layers:
            attention, mlp = layer.self_attn, layer.mlp
            readers = [attention.q_proj, attention.k_proj, attention.v_proj]
            _widen(layer.layer_norm1, readers, dice)
            _widen(layer.layer_norm2, [mlp.fc1], dice)
            _widen(attention.v_proj, [attention.out_proj], dice)
        _make_massive(layers[_EARLY].mlp, dice)
    return model


def _widen(writer: Any, readers: list[nn.Linear], dice: torch.Generator) -> None:
    """Multiply some outputs of a norm or a layer, and divide the weights that read them."""
    channels = torch.randperm(len(writer.bias), generator=dice)[:_CHANNELS]
    factor = _LEAST + (_MOST - _LEAST) * torch.rand(_CHANNELS, generator=dice)
    weight: Tensor = writer.weight
    weight[channels] *= factor if weight.ndim == 1 else factor[:, None]
    writer.bias[channels] *= factor
    for reader in readers:
        reader.weight[:, channels] /= factor


def _make_massive(mlp: Any, dice: torch.Generator) -> None:
    """Let one hidden unit answer to few tokens, then write hundreds into two channels."""
    unit = 0
    mlp.fc1.weight[unit] *= _UNIT_SHARPNESS
    mlp.fc1.bias[unit] = (
        -_UNIT_RARE * _UNIT_SHARPNESS * mlp.fc1.weight[unit].norm() / (_UNIT_SHARPNESS)
    )
    channels = torch.randperm(mlp.fc2.out_features, generator=dice)[:_MASSIVE_CHANNELS]
    mlp.fc2.weight[channels, unit] = _MASSIVE
