"""Layers in int8 whose weights torch has packed -> the same with plain weights, and back at load.

TorchScript stores what oneDNN has packed; a `.pt2` file cannot, and would be of one kind of
processor. Shapes: ...I inputs, O outputs.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.model.precision import adds_in_32_bits

_TINY: Final = 1e-12
# Torch cannot write an empty list of numbers to the file; these are of no operation.
_NO_ARGUMENTS: Final = (0.0,)


class PlainInt8Linear(nn.Module):
    """A linear layer in int8: each row of inputs is divided by its largest, then rounded.

    `levels` are the weights, O x I in eight bits, `scale` a factor for each output.
    """

    levels: Tensor
    scale: Tensor
    zeros: Tensor
    bias: Tensor
    offset: Tensor

    def __init__(self, levels_OI: Tensor, scale_O: Tensor, bias_O: Tensor, prepared: Any) -> None:
        """Take weights, and what divides inputs by row and says by what."""
        super().__init__()
        self.register_buffer("levels", levels_OI)
        self.register_buffer("scale", scale_O.to(torch.float32))
        self.register_buffer("zeros", torch.zeros_like(scale_O, dtype=torch.int64))
        self.register_buffer("bias", bias_O)
        # Cutting off what is half a step too much is rounding, in one pass over memory.
        self.register_buffer("offset", torch.tensor(prepared.steps[1] + 0.5))
        self._prepared = prepared

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        divided, largest = self._prepared.divided(inputs)
        steps, zero = self._prepared.steps
        rounded = torch.add(self.offset, divided, alpha=steps).to(torch.uint8)
        packed = torch.ops.onednn.qlinear_prepack(self.levels, None)
        products = torch.ops.onednn.qlinear_pointwise(
            *(rounded, 1 / steps, zero, packed, self.scale, self.zeros, None),
            *(1.0, 0, torch.float32, "none", _NO_ARGUMENTS, ""),
        )
        return torch.addcmul(self.bias, products, largest)


class _ByRow(nn.Module):
    """Divides each row by its largest; in seven bits where eight would overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = (127.0, 128) if adds_in_32_bits() else (63.0, 64)

    def divided(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs between -1 and 1, and by what each row was divided."""
        largest = inputs.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY)
        return inputs / largest, largest


def exportable(tower: nn.Module) -> nn.Module:
    """Return a tower that torch.export can write: layers in int8 are replaced, others shared."""
    tower = copy.copy(tower)
    tower._modules = {  # noqa: SLF001 - so that the layers of the original stay where they are
        name: child and (_plain(child) or exportable(child))
        for name, child in tower._modules.items()  # noqa: SLF001
    }
    return tower


def packed(module: Any) -> Any:
    """Pack the int8 weights of a loaded program for this processor, in place, once."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target != torch.ops.onednn.qlinear_prepack.default:
            continue
        name = f"packed_{node.name}"
        weight = module.get_buffer(node.args[0].target)
        module.register_buffer(
            name, torch.ops.onednn.qlinear_prepack(weight, None), persistent=False
        )
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(name))
        graph.erase_node(node)
    module.recompile()
    return module


def _plain(layer: nn.Module) -> nn.Module | None:
    if type(layer).__name__ == "QuantizedLinear":
        return _of_our_own(layer)
    if isinstance(layer, torch.ao.nn.quantized.dynamic.Linear):
        return _of_torchs_own(layer)
    return None


def _of_our_own(layer: Any) -> nn.Module:
    """Take a layer that divides by row itself, to [-1, 1] or to [0, 1]."""
    prepared = copy.copy(layer)
    prepared._modules = {}  # noqa: SLF001 - what is packed
    prepared.steps = (255.0, 0) if layer.is_one_sided else (127.0, 128)
    return PlainInt8Linear(layer.levels_OI, layer.scale_O, layer.bias_O, prepared)


def _of_torchs_own(layer: Any) -> nn.Module:
    weight, bias = layer.weight(), layer.bias()
    levels_OI, scale_O = weight.int_repr(), weight.q_per_channel_scales()
    bias_O = torch.zeros(len(scale_O)) if bias is None else bias.detach()
    return PlainInt8Linear(levels_OI, scale_O, bias_O, _ByRow())
