"""Bytes times weights of eight bits, by oneDNN: as convolutions of 1 x 1, or as matrix products.

Without VNNI oneDNN's matrix products rearrange the weights at each call; its convolutions keep them
rearranged, and take 0.9 times as long. In a file weights are plain, and whoever loads it packs them
for the processor at hand (worker/engines/pack_int8.py).

Shapes: ...I inputs, O outputs, R rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

# The parameters of what is done after a product: nothing is. torch cannot write an empty list.
_NO_PARAMETERS: Final = (0.0,)


def adds_in_32_bits() -> bool:
    """Whether the processor has VNNI. Others add products of bytes in 16 bits, which overflow.

    Layers of ours cannot (levels.py); those of other makers need a bit to spare there.
    """
    found: bool = torch.cpu._is_vnni_supported()  # noqa: SLF001 - there is no public way
    return found


class Product(nn.Module):
    """Bytes ...I -> float32 ...O: their products with `levels_OI` of int8, each times `scale_O`.

    `zero` is what stands for 0 among the inputs.
    """

    def __init__(self, levels_OI: Tensor, scale_O: Tensor, zero: int) -> None:
        super().__init__()
        self.as_convolution = as_convolution = not adds_in_32_bits()
        self.levels = levels_OI[..., None, None] if as_convolution else levels_OI
        self.scale_O = scale_O.to(torch.float32)
        self.zeros_O = torch.zeros(len(scale_O), dtype=torch.int32)
        self.offset_O = -zero * levels_OI.sum(dim=1) * self.scale_O
        self._packed: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply."""
        rows_RI = inputs.reshape(-1, inputs.shape[-1])
        weights = self.scale_O, self.zeros_O, self.offset_O
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            # What is traced cannot hand on lists of numbers that may be none.
            product = _scripted(_by_convolution if self.as_convolution else _by_matrix)
            products_RO: Tensor = product(rows_RI, self.levels, *weights)
        elif self.as_convolution:
            pixels = rows_RI.view(1, -1, 1, rows_RI.shape[-1]).permute(0, 3, 1, 2)
            products = torch.ops.onednn.qconv_pointwise(
                *(pixels, 1.0, 0, self._weights(), *weights, [1, 1], [0, 0], [1, 1], 1),
                *(1.0, 0, torch.float32, "none", _NO_PARAMETERS, ""),
            )
            products_RO = products.permute(0, 2, 3, 1).reshape(-1, len(self.scale_O))
        else:
            products_RO = torch.ops.onednn.qlinear_pointwise(
                *(rows_RI, 1.0, 0, self._weights(), *weights),
                *(1.0, 0, torch.float32, "none", _NO_PARAMETERS, ""),
            )
        return products_RO.view(*inputs.shape[:-1], -1)

    def _weights(self) -> Tensor:
        scale_O = self.scale_O if self.as_convolution else None
        if torch.compiler.is_exporting():
            return packed(self.levels, scale_O)
        if self._packed is None:
            self._packed = packed(self.levels, scale_O)
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is packed, which cannot be copied."""
        return {**self.__dict__, "_packed": None}


def packed(levels: Tensor, scale_O: Tensor | None) -> Tensor:
    """Return weights as oneDNN reads them on this processor; only convolutions have a scale."""
    if scale_O is None:
        return _packed_matrix(levels)
    return _packed_convolution(levels, scale_O)


def _packed_convolution(levels: Tensor, scale_O: Tensor) -> Tensor:
    # Any number of pixels will do.
    shape = [1, levels.size(1), 128, 1]
    found: Tensor = torch.ops.onednn.qconv_prepack(
        levels, scale_O, 1.0, 0, [1, 1], [0, 0], [1, 1], 1, shape
    )
    return found


def _packed_matrix(levels: Tensor) -> Tensor:
    found: Tensor = torch.ops.onednn.qlinear_prepack(levels, None)
    return found


def _by_convolution(
    rows_RI: Tensor, levels: Tensor, scale_O: Tensor, zeros_O: Tensor, offset_O: Tensor
) -> Tensor:
    weights = _packed_convolution(levels, scale_O)
    pixels = rows_RI.view([1, -1, 1, rows_RI.size(1)]).permute([0, 3, 1, 2])
    products: Tensor = torch.ops.onednn.qconv_pointwise(
        pixels, 1.0, 0, weights, scale_O, zeros_O, offset_O, [1, 1], [0, 0], [1, 1], 1, 1.0, 0,
        torch.float32, "none", [], "",
    )  # fmt: skip
    return products.permute([0, 2, 3, 1]).reshape([-1, levels.size(0)])


def _by_matrix(
    rows_RI: Tensor, levels: Tensor, scale_O: Tensor, zeros_O: Tensor, offset_O: Tensor
) -> Tensor:
    weights = _packed_matrix(levels)
    products: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows_RI, 1.0, 0, weights, scale_O, zeros_O, offset_O, 1.0, 0, torch.float32, "none", [], ""
    )
    return products


@cache
def _scripted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    with warnings.catch_warnings():
        # torch.jit is deprecated upstream; other engines stand beside it.
        warnings.simplefilter("ignore")
        return cast("Callable[..., Tensor]", torch.jit.script(function))
