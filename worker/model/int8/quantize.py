"""A rewritten tower in float32 -> the same in int8, as near to itself as is asked for.

Shapes: N images, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.model.int8.layers import Bfloat16Linear, QuantizedLinear, harm
from worker.model.int8.observe import Observed, observe
from worker.model.int8.smooth import factors, smooth

# Layers that do less of the work than this stay as they are: projections, classes.
_WORTH: Final = 0.004
# An explicit division by channel costs a pass over memory: it has to make a layer this much better.
_BETTER: Final = 0.85
# Pictures beyond those that are calibrated on may fare worse.
_MARGIN: Final = 0.6
_BATCH: Final = 4
# On how many pictures each layer is tried alone, should all in int8 be too far off.
_TRIED: Final = 2
# More than this share of the work in floats would leave nothing to gain.
_MOST_IN_FLOATS: Final = 0.5


class Quantized(msgspec.Struct, frozen=True):
    """A tower in int8: `in_floats` are the layers that stayed in floats because int8 harms them.

    `cosine` is the least of the pictures that it was calibrated on.
    """

    tower: nn.Module
    in_floats: tuple[str, ...]
    cosine: float


class _Layer(msgspec.Struct):
    name: str
    work: float
    plain: nn.Module
    quantized: nn.Module


def quantize(
    tower: nn.Module, pixels_NCHW: Tensor, least_cosine: float, *, bfloat16: bool
) -> Quantized:
    """Return the tower with its linear layers in int8, calibrated on pixels NCHW of pictures.

    Should rows then be further from the tower's own than `least_cosine`, with a margin, layers are
    tried one at a time, and those that suffer most stay in floats: in `bfloat16`, or in float32.
    """
    tower = copy.deepcopy(tower)
    starts = range(0, len(pixels_NCHW), _BATCH)
    batches = [pixels_NCHW[start : start + _BATCH] for start in starts]
    plain = observe(tower, batches)
    seen = smooth(tower, plain, batches[0])
    with torch.no_grad():
        wanted_ND = torch.cat([tower(batch) for batch in batches])
        works = {name: _work(tower, name, one) for name, one in seen.items()}
        least_work = _WORTH * sum(works.values())
        layers = [
            _layer(tower, name, one, is_smooth=one is not plain[name], bfloat16=bfloat16)
            for name, one in seen.items()
            if works[name] >= least_work
        ]
        for layer in layers:
            _put(tower, layer.name, layer.quantized)

        def cosine() -> float:
            return _least_cosine(torch.cat([tower(batch) for batch in batches]), wanted_ND)

        aim = 1 - _MARGIN * (1 - least_cosine)
        found = cosine()
        if found >= aim:
            return Quantized(tower, (), found)
        return _with_floats(tower, layers, cosine, aim, (batches[0][:_TRIED], wanted_ND[:_TRIED]))


def _with_floats(
    tower: nn.Module,
    layers: list[_Layer],
    cosine: Callable[[], float],
    aim: float,
    trial: tuple[Tensor, Tensor],
) -> Quantized:
    """Put those layers back that harm most for what they save, until the aim is reached."""
    by_harm = sorted(layers, key=_harms(tower, layers, trial), reverse=True)
    whole = sum(layer.work for layer in layers)
    back: list[str] = []
    step, found = 1, cosine()
    while found < aim and by_harm:
        for layer in by_harm[:step]:
            _put(tower, layer.name, layer.plain)
            back.append(layer.name)
        by_harm = by_harm[step:]
        # A few at first; each time half as many again, so that it ends soon.
        step = max(1, len(back) // 2)
        found = cosine()
        if sum(layer.work for layer in layers if layer.name in back) > _MOST_IN_FLOATS * whole:
            break
    return Quantized(tower, tuple(back), found)


def _harms(
    tower: nn.Module, layers: list[_Layer], trial: tuple[Tensor, Tensor]
) -> Callable[[_Layer], float]:
    """Return what a layer costs in agreement by itself, for each part of the work that it is."""
    pixels_NCHW, wanted_ND = trial
    for layer in layers:
        _put(tower, layer.name, layer.plain)
    found: dict[str, float] = {}
    for layer in layers:
        _put(tower, layer.name, layer.quantized)
        found[layer.name] = (1 - _least_cosine(tower(pixels_NCHW), wanted_ND)) / layer.work
        _put(tower, layer.name, layer.plain)
    for layer in layers:
        _put(tower, layer.name, layer.quantized)
    return lambda layer: found[layer.name]


def _work(tower: nn.Module, name: str, seen: Observed) -> float:
    """Return how often a layer multiplied."""
    weight: Tensor = getattr(tower.get_submodule(name), "weight")  # noqa: B009 - of a linear layer
    return float(seen.rows * weight.numel())


def _layer(
    tower: nn.Module, name: str, seen: Observed, *, is_smooth: bool, bfloat16: bool
) -> _Layer:
    plain: Any = tower.get_submodule(name)
    quantized = QuantizedLinear(plain, seen)
    if not is_smooth:
        divided = QuantizedLinear(plain, seen, factors(seen.largest(), plain.weight))
        if harm(plain, divided, seen) < _BETTER * harm(plain, quantized, seen):
            quantized = divided
    spare = Bfloat16Linear(copy.deepcopy(plain)) if bfloat16 else plain
    return _Layer(name, _work(tower, name, seen), spare, quantized)


def _least_cosine(found_ND: Tensor, wanted_ND: Tensor) -> float:
    cosines = F.cosine_similarity(found_ND.double(), wanted_ND.double(), dim=-1)
    return float(cosines.min().nan_to_num(-1.0))


def _put(tower: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(tower.get_submodule(parent), leaf, layer)
