"""Linear layers in few bits: eight for both sides, or bfloat16 for one that eight would harm.

Shapes: ...I inputs, O outputs.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.model.int8.levels import rounded
from worker.model.int8.observe import Observed

# Inputs whose least value is as near to 0 as this share of the largest are shifted to 0: what GELU
# and its like give. Then all 256 levels are theirs.
_ONE_SIDED: Final = 0.5
_TINY: Final = 1e-12


class QuantizedLinear(nn.Module):
    """A linear layer whose weights lie in eight bits, and whose inputs are rounded to eight bits.

    Each token (row) has a scale of its own: its largest value is 1, and the whole of the tensor is
    rounded at once. `levels_OI` and `scale_O` are the weights: level times scale.
    """

    factor_I: Tensor | None
    bias_O: Tensor

    def __init__(self, layer: nn.Linear, seen: Observed, factor_I: Tensor | None = None) -> None:
        """Round a layer's weights for inputs as they were seen, which `factor_I` divides first."""
        super().__init__()
        weight_OI = layer.weight.detach()
        if factor_I is not None:
            weight_OI, seen = weight_OI * factor_I, seen.divided(factor_I)
        self.levels_OI, self.scale_O = rounded(weight_OI, seen.square_I)
        low, high = float(seen.low_I.min()), float(seen.high_I.max())
        self.shift = max(0.0, -low) if -low <= _ONE_SIDED * high else 0.0
        self.is_one_sided = -low <= _ONE_SIDED * high
        bias: Tensor | None = layer.bias
        shifted_O = self.shift * (self.levels_OI.sum(dim=1) * self.scale_O)
        self.register_buffer("bias_O", (0 if bias is None else bias.detach()) - shifted_O)
        self.register_buffer("factor_I", None if factor_I is None else 1 / factor_I)
        self.params = _packed(self.levels_OI, self.scale_O)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        inputs, largest = self.divided(inputs)
        products = torch.ops.quantized.linear_dynamic(
            inputs,
            self.params._packed_params,  # noqa: SLF001 - torch's own
            reduce_range=False,
        )
        return torch.addcmul(self.bias_O, products, largest)

    def divided(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs of which the largest of each token is 1, and by what each was divided."""
        if self.factor_I is not None:
            inputs = inputs * self.factor_I
        highest = inputs.amax(dim=-1, keepdim=True)
        if not self.is_one_sided:
            largest = torch.maximum(highest, -inputs.amin(dim=-1, keepdim=True))
            largest = largest.clamp(min=_TINY)
            return inputs / largest, largest
        largest = (highest + self.shift).clamp(min=_TINY)
        return (inputs + self.shift).div_(largest), largest


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


def _packed(levels_OI: Tensor, scale_O: Tensor) -> Any:
    """Return what holds the weights as oneDNN wants them, and can be traced and saved."""
    zeros_O = torch.zeros(len(scale_O), dtype=torch.long)
    with warnings.catch_warnings():
        # torch.ao is deprecated upstream; its successor cannot be saved as TorchScript.
        warnings.simplefilter("ignore")
        weight = torch._make_per_channel_quantized_tensor(  # noqa: SLF001 - there is no public way
            levels_OI, scale_O.double(), zeros_O, 0
        )
        packed: Any = torch.ao.nn.quantized.modules.linear.LinearPackedParams
        made = packed(torch.qint8)
        made.set_weight_bias(weight, None)
    return made


class DividedLinear(nn.Module):
    """A quantised layer in floats: for libraries that round inputs themselves, a tensor at once."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        weight_OI = layer.levels_OI * layer.scale_O[:, None]
        self.linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False)
        self.linear.weight = nn.Parameter(weight_OI, requires_grad=False)
        self.quantized = copy.copy(layer)
        # What oneDNN has packed cannot be written to other files.
        self.quantized.params = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        inputs, largest = self.quantized.divided(inputs)
        return torch.addcmul(self.quantized.bias_O, self.linear(inputs), largest)


def in_floats(tower: nn.Module) -> nn.Module:
    """Replace quantised layers by their like in floats, in place; return the tower."""
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QuantizedLinear):
                setattr(parent, name, DividedLinear(child))
    return tower
