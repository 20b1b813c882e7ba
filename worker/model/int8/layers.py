"""Linear layers in few bits: eight for both sides, or bfloat16 for one that eight would harm.

Shapes: ...I inputs, O outputs.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.model.int8.levels import rounded
from worker.model.int8.observe import Observed
from worker.model.int8.products import Product

_TINY: Final = 1e-12
_LEVELS: Final = 255
# What may stand for 0 among the levels of inputs: 128 where they are as often negative; less for
# what GELU and its like give. Never 0: what was not negative in any picture may be in another.
_ZEROS: Final = range(8, 129, 8)
# Cutting off what is half a level too much is rounding.
_HALF: Final = 0.5


class QuantizedLinear(nn.Module):
    """A linear layer whose weights lie in eight bits, and whose inputs are rounded to eight bits.

    Each token (row) has a scale of its own, as fine as its least and its largest allow.
    `levels_OI` and `scale_O` are the weights: level times scale.
    """

    factor_I: Tensor | None
    bias_O: Tensor

    def __init__(self, layer: nn.Linear, seen: Observed, factor_I: Tensor | None = None) -> None:
        """Round a layer's weights for inputs as they were seen, which `factor_I` divides first."""
        super().__init__()
        weight_OI = layer.weight.detach()
        if factor_I is not None:
            weight_OI, seen = weight_OI * factor_I, seen.divided(factor_I)
        levels_OI, scale_O = rounded(weight_OI, seen.square_I)
        self.zero = _best_zero(seen.rows_RI)
        self.zeros_I = torch.full((weight_OI.shape[1],), self.zero + _HALF)
        bias: Tensor | None = layer.bias
        bias_O = torch.zeros(len(scale_O)) if bias is None else bias.detach()
        self.register_buffer("bias_O", bias_O)
        self.register_buffer("factor_I", None if factor_I is None else 1 / factor_I)
        self.levels_OI, self.scale_O = levels_OI, scale_O
        self.product = Product(levels_OI, scale_O, self.zero)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        inputs, steps = self.prepared(inputs)
        levels = torch.addcmul(self.zeros_I, inputs, steps)
        # By way of 16 bits: torch has vectors for either step, but not for both at once.
        products = self.product(levels.to(torch.int16).to(torch.uint8))
        # In place: this is all memory traffic.
        return torch.addcmul(self.bias_O, products, steps.reciprocal(), out=products)

    def prepared(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs as they are multiplied, and how many levels 1 is in each token."""
        if self.factor_I is not None:
            inputs = inputs * self.factor_I
        return inputs, _steps(inputs, self.zero)


class Bfloat16Linear(nn.Module):
    """A linear layer that computes in bfloat16, between layers of float32."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.to(torch.bfloat16)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        out: Tensor = self.layer(inputs.to(torch.bfloat16)).to(inputs.dtype)
        return out


def harm(layer: nn.Linear, quantized: QuantizedLinear, seen: Observed) -> float:
    """Return how far a quantised layer is off on rows that it was seen with: a share of them."""
    with torch.no_grad():
        wanted_RO = F.linear(seen.rows_RI, layer.weight)
        bias: Tensor | None = layer.bias
        found_RO = quantized(seen.rows_RI) - (0 if bias is None else bias)
        return float((found_RO - wanted_RO).norm() / wanted_RO.norm().clamp(min=_TINY))


def _steps(inputs: Tensor, zero: int) -> Tensor:
    """Return how many levels 1 is in each token, ...1, if `zero` is the level that stands for 0."""
    high = inputs.amax(dim=-1, keepdim=True).clamp(min=_TINY)
    low = inputs.amin(dim=-1, keepdim=True).clamp(max=-_TINY)
    return torch.minimum((_LEVELS - zero) / high, -zero / low)


def _best_zero(rows_RI: Tensor) -> int:
    """Return what level stands for 0 if rows like these are to be rounded least, for their size.

    Rows of nothing are the same in any way.
    """
    some_RI = rows_RI[rows_RI.norm(dim=1) > _TINY]
    size_R1 = some_RI.norm(dim=1, keepdim=True)
    if not len(some_RI):
        return _ZEROS[-1]
    return min(_ZEROS, key=lambda zero: float((_steps(some_RI, zero) * size_R1).pow(-2).mean()))


class DividedLinear(nn.Module):
    """A quantised layer in floats: for libraries that round inputs themselves, a tensor at once."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        weight_OI = layer.levels_OI * layer.scale_O[:, None]
        self.linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False)
        self.linear.weight = nn.Parameter(weight_OI, requires_grad=False)
        self.quantized = layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        inputs, steps = self.quantized.prepared(inputs)
        products = self.linear(inputs * steps)
        return torch.addcmul(self.quantized.bias_O, products, steps.reciprocal())


def in_floats(tower: nn.Module) -> nn.Module:
    """Replace quantised layers by their like in floats, in place; return the tower."""
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QuantizedLinear):
                setattr(parent, name, DividedLinear(child))
    return tower
