"""A transformers tower -> the same function in fewer, larger operations, for inference alone.

Exact up to rounding, and measured as such at export. Shapes: B images, L patches, D width, H heads,
E = D / H.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# quick_gelu(x) = x * sigmoid(1.702 x) = silu(1.702 x) / 1.702 (Hendrycks and Gimpel, "Gaussian
# error linear units", 2016, give the constant).
QUICK_GELU: Final = 1.702
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj")
_OUTPUTS: Final = ("out_proj", "o_proj")


class FusedAttention(nn.Module):
    """Self-attention without a mask, its three input projections as one matrix product."""

    def __init__(self, attention: Any, output: nn.Linear) -> None:
        super().__init__()
        inputs = [getattr(attention, name) for name in _PROJECTIONS]
        self.head_dim = int(attention.head_dim)
        self.scale = float(getattr(attention, "scale", self.head_dim**-0.5))
        self.qkv = _stacked(inputs)
        self.out = output

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Return the mixed states, and None for the weights that nobody asks for."""
        # The name is that by which transformers calls it.
        states_BLD = hidden_states
        B, L = states_BLD.shape[:2]
        qkv = self.qkv(states_BLD).view(B, L, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        queries_BHLE, keys_BHLE, values_BHLE = qkv[0], qkv[1], qkv[2]
        mixed_BHLE = F.scaled_dot_product_attention(
            queries_BHLE, keys_BHLE, values_BHLE, scale=self.scale
        )
        return self.out(mixed_BHLE.transpose(1, 2).reshape(B, L, -1)), None


def for_inference(tower: nn.Module) -> nn.Module:
    """Rewrite an image tower in place and return it: what is not recognised stays as it is."""
    tower.eval().requires_grad_(requires_grad=False)
    for parent in list(tower.modules()):
        _fold_quick_gelu(parent)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, nn.Identity())
            elif (output := _output_of(child)) is not None:
                setattr(parent, name, FusedAttention(child, output))
    return tower


def _output_of(module: nn.Module) -> nn.Linear | None:
    """Return the output projection of a plain self-attention; None for everything else."""
    if not all(isinstance(getattr(module, name, None), nn.Linear) for name in _PROJECTIONS):
        return None
    if getattr(module, "is_causal", False) or not hasattr(module, "head_dim"):
        return None
    found = [getattr(module, name, None) for name in _OUTPUTS]
    return next((one for one in found if isinstance(one, nn.Linear)), None)


def _stacked(layers: list[nn.Linear]) -> nn.Linear:
    """Return one linear layer whose output is that of all layers, one after another."""
    rows = sum(layer.out_features for layer in layers)
    biases: list[Tensor | None] = [layer.bias for layer in layers]
    has_bias = any(bias is not None for bias in biases)
    stacked = nn.Linear(layers[0].in_features, rows, bias=has_bias)
    weight = torch.cat([layer.weight.detach() for layer in layers])
    stacked = stacked.to(weight.device, weight.dtype)
    with torch.no_grad():
        stacked.weight.copy_(weight)
        if has_bias:
            zeros = weight.new_zeros(layers[0].out_features)
            stacked.bias.copy_(torch.cat([zeros if bias is None else bias for bias in biases]))
    return stacked.requires_grad_(requires_grad=False)


def _fold_quick_gelu(module: Any) -> None:
    """Turn fc1, quick_gelu, fc2 into fc1, SiLU, fc2: the constant goes into the weights."""
    activation = getattr(module, "activation_fn", None)
    first, second = getattr(module, "fc1", None), getattr(module, "fc2", None)
    if type(activation).__name__ != "QuickGELUActivation":
        return
    if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear)):
        return
    bias: Tensor | None = first.bias
    with torch.no_grad():
        first.weight.mul_(QUICK_GELU)
        if bias is not None:
            bias.mul_(QUICK_GELU)
        second.weight.div_(QUICK_GELU)
    module.activation_fn = nn.SiLU()
