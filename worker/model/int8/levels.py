"""A weight in floats -> levels of eight bits that no processor adds up wrongly.

Processors with AVX2 and without VNNI multiply eight-bit activations, 0 to 255, by eight-bit weights
and add the products of two neighbouring inputs in 16 bits, which saturate. Usual is to give up a
bit of the activations. But an overflow needs two large weights of the same sign side by side, one
pair in a thousand: here those alone are made smaller, and activations keep all eight bits.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_MOST: Final = 127
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
    importance_I = square_I / square_I.mean().clamp(min=torch.finfo(torch.float32).tiny)
    parts = [_best(part_OI, importance_I) for part_OI in weight_OI.split(_AT_ONCE)]
    return torch.cat([levels for levels, _ in parts]), torch.cat([scale for _, scale in parts])


def _best(weight_OI: Tensor, importance_I: Tensor) -> tuple[Tensor, Tensor]:
    largest_O1 = weight_OI.abs().amax(dim=1, keepdim=True)
    whole_O1 = largest_O1.clamp(min=torch.finfo(torch.float32).tiny * _MOST) / _MOST
    best_OI, best_O1, least_O1 = weight_OI, whole_O1, torch.full_like(whole_O1, torch.inf)
    for share in _SHARES:
        scale_O1 = whole_O1 * share
        levels_OI = _bounded((weight_OI / scale_O1).round_().clamp_(-_MOST, _MOST))
        missed_OI = torch.addcmul(weight_OI, levels_OI, scale_O1, value=-1).square_()
        loss_O1 = (missed_OI @ importance_I)[:, None]
        is_less_O1 = loss_O1 < least_O1
        least_O1 = torch.where(is_less_O1, loss_O1, least_O1)
        best_O1 = torch.where(is_less_O1, scale_O1, best_O1)
        best_OI = torch.where(is_less_O1, levels_OI, best_OI)
    return best_OI.to(torch.int8), best_O1.squeeze(1)


def _bounded(levels_OI: Tensor) -> Tensor:
    """Take the same from both of a pair of one sign whose sum is too large."""
    even_OI = levels_OI[:, : levels_OI.shape[1] // 2 * 2]
    pairs_OI2 = even_OI.unflatten(1, (-1, 2))
    sum_OI = pairs_OI2.sum(dim=2)
    # Of opposite signs the sum is never too large.
    half_OI1 = ((sum_OI.abs() - MOST_PAIR).clamp_(min=0) / 2).ceil_().mul_(sum_OI.sign())[..., None]
    bounded_OI = (pairs_OI2 - half_OI1).flatten(1)
    return torch.cat([bounded_OI, levels_OI[:, even_OI.shape[1] :]], dim=1)
