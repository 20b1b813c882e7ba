"""A weight in floats -> levels of eight bits that no processor adds up wrongly.

Processors with AVX2 and without VNNI multiply eight-bit activations, 0 to 255, by eight-bit weights
and add the products of two neighbouring inputs in 16 bits, which saturate. Usual is to give up a
bit of the activations. But an overflow needs two large weights of the same sign side by side, one
pair in a thousand: here those alone are made smaller, and activations keep all eight bits.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]

_MOST: Final = 127
_TINY: Final = 1e-30
# 255 * 128 = 32,640 is the most that a pair can give; 16 bits hold 32,767. Of opposite signs, 255 *
# 127 is the most.
MOST_PAIR: Final = 128
# Shares of the scale that holds the largest weight: smaller ones clip it and step more finely;
# larger ones make pairs that are too large rare.
_SHARES: Final = (0.88, 1.0, 1.15, 1.4, 2.0)
# Outputs that are tried at once: what is computed of them stays in the processor's cache.
_AT_ONCE: Final = 96


def rounded(weight_OI: Tensor, square_I: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 levels OI and float32 scales O; a weight is about its level times its scale.

    For each output, of several scales that which changes the output least: `square_I` is the mean
    square of each input. No pair of neighbouring inputs 2i and 2i + 1 can overflow 16 bits.
    """
    # In numpy: torch would share each of these many short steps among its threads.
    weights: Floats = weight_OI.numpy()
    importance_I = (square_I / max(float(square_I.mean()), _TINY)).numpy()
    starts = range(0, len(weights), _AT_ONCE)
    parts = [_best(weights[start : start + _AT_ONCE], importance_I) for start in starts]
    levels_OI = np.concatenate([levels for levels, _ in parts])
    scale_O = np.concatenate([scale for _, scale in parts])
    return torch.from_numpy(levels_OI), torch.from_numpy(scale_O)


def _best(weight_OI: Floats, importance_I: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    whole_O1 = np.maximum(np.abs(weight_OI).max(axis=1, keepdims=True), _TINY) / np.float32(_MOST)
    best_OI, best_O1 = weight_OI, whole_O1
    least_O1 = np.full_like(whole_O1, np.inf)
    for share in _SHARES:
        scale_O1 = whole_O1 * np.float32(share)
        levels_OI = np.rint(weight_OI / scale_O1).clip(-_MOST, _MOST)
        _bound(levels_OI)
        missed_OI = levels_OI * scale_O1
        missed_OI -= weight_OI
        loss_O1 = (np.square(missed_OI, out=missed_OI) @ importance_I)[:, None]
        is_less_O1 = loss_O1 < least_O1
        least_O1 = np.where(is_less_O1, loss_O1, least_O1)
        best_O1 = np.where(is_less_O1, scale_O1, best_O1)
        best_OI = np.where(is_less_O1, levels_OI, best_OI)
    return best_OI.astype(np.int8), best_O1[:, 0]


def _bound(levels_OI: Floats) -> None:
    """Take the same from both of a pair of one sign whose sum is too large, in place."""
    even = levels_OI.shape[1] // 2 * 2
    first, second = levels_OI[:, 0:even:2], levels_OI[:, 1:even:2]
    # Of opposite signs the sum is never too large.
    sum_OI = first + second
    is_over_OI = np.abs(sum_OI) > MOST_PAIR
    over = sum_OI[is_over_OI]
    half = np.sign(over) * np.ceil((np.abs(over) - MOST_PAIR) / 2)
    first[is_over_OI] -= half
    second[is_over_OI] -= half
