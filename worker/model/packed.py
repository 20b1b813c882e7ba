"""Layers whose weights lie in eight bits, a scale for each output: a quarter of the file.

They compute in floats: a graph that is frozen after it is loaded multiplies the weights once.

Shapes: O outputs, I inputs, K kernel side, N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS: Final = 127


class Packed(nn.Module):
    """A weight of any shape, outputs first: int8 levels times a float32 scale for each output."""

    levels: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(shape[0], *[1] * (len(shape) - 1)))

    def pack(self, weight: Tensor) -> None:
        """Take the nearest levels to a weight."""
        largest = weight.abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        scale = (largest / _LEVELS).view_as(self.scale)
        self.scale.copy_(scale)
        self.levels.copy_((weight / scale).round())

    def forward(self, like: Tensor) -> Tensor:
        """Return the weight in the type of `like`."""
        weight = (self.levels.to(torch.float32) * self.scale).to(like.dtype)
        is_kernel = weight.ndim == 4  # noqa: PLR2004
        return weight.contiguous(memory_format=torch.channels_last) if is_kernel else weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's own
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Moved, but never rounded: it is multiplied before the weight is.
        self.scale = scale.to(self.levels.device)
        return self


class PackedConv(nn.Module):
    """A convolution with a bias, as `Convolution` of efficientnet_lite.py pads it."""

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.weight = Packed(tuple(convolution.weight.shape))
        self.weight.pack(convolution.weight.detach())
        self.bias = nn.Parameter(convolution.bias.detach().clone(), requires_grad=False)
        self.padded = convolution.padded
        self.stride, self.groups = convolution.stride, convolution.groups

    def forward(self, states_NIHW: Tensor) -> Tensor:
        """Pad and convolve."""
        states, padding = self.padded(states_NIHW)
        weight = self.weight(states)
        return F.conv2d(states, weight, self.bias, self.stride, padding, 1, self.groups)


class PackedLinear(nn.Module):
    """A linear layer with a bias."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = Packed((outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False)

    def fill(self, weight_OI: Tensor, bias_O: Tensor) -> None:
        """Take trained numbers."""
        self.weight.pack(weight_OI)
        self.bias.data.copy_(bias_O)

    def forward(self, rows_NI: Tensor) -> Tensor:
        """Multiply."""
        return F.linear(rows_NI, self.weight(rows_NI), self.bias)


def pack(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Replace the convolutions of a type in place, and return the module."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, PackedConv(child))
    return module
