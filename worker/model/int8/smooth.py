"""Channels that are much larger than others made smaller, without changing what a tower computes.

Trained transformers have a few channels a hundred times as large as the rest; eight bits for all
leave nothing for the others. Dividing such a channel and multiplying the weights that read it is
free where a layer norm or a linear layer writes it (Xiao et al., "SmoothQuant", 2022).

Shapes: I inputs of a layer, O outputs, D width, N images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.model.int8.observe import Observed
from worker.model.rewrite import FirstTokenLayer, FusedAttention

# How much of the difficulty goes from activations to weights: half, as the paper has it.
_STRENGTH: Final = 0.5
_LEAST: Final = 1e-5
# Rounding alone; who reads a norm's output beside the linear layers changes a tower by far more.
_SAME: Final = 1e-3


def factors(largest_I: Tensor, *weights_OI: Tensor) -> Tensor:
    """Return by what each input is to be divided: 1 on (geometric) average."""
    weight_I = torch.stack([weight.abs().amax(dim=0) for weight in weights_OI]).amax(dim=0)
    share_I = largest_I.clamp(min=_LEAST) ** _STRENGTH
    factor_I = share_I / weight_I.clamp(min=_LEAST) ** (1 - _STRENGTH)
    out_I: Tensor = factor_I / factor_I.log().mean().exp()
    return out_I


@torch.no_grad()
def smooth(tower: nn.Module, seen: dict[str, Observed], pixels_NCHW: Tensor) -> dict[str, Observed]:
    """Smooth a tower in place as far as that is exact; return what its layers are given then.

    It is tried on pixels: should something else read what a norm gives, such as the residual of a
    network that normalises afterwards, norms stay as they are.
    """
    seen = seen | dict(_smooth_values(tower, seen))
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    wanted = tower(pixels_NCHW)
    smoothed = dict(_smooth_norms(tower, seen))
    found = tower(pixels_NCHW)
    if float((found - wanted).abs().max()) <= _SAME * float(wanted.abs().max()):
        return seen | smoothed
    tower.load_state_dict(before)
    return seen


def _smooth_norms(tower: nn.Module, seen: dict[str, Observed]) -> Iterator[tuple[str, Observed]]:
    """Divide what norms give, and multiply the weights that read it."""
    for norm_name, norm in list(tower.named_modules()):
        names = [name for name, one in seen.items() if one.norm == norm_name]
        if not isinstance(norm, nn.LayerNorm) or not norm.elementwise_affine or not names:
            continue
        layers = [tower.get_submodule(name) for name in names]
        largest_I = torch.stack([seen[name].largest() for name in names]).amax(dim=0)
        factor_I = factors(largest_I, *(_weight(layer) for layer in layers))
        norm.weight.div_(factor_I)
        if norm.bias is not None:
            norm.bias.div_(factor_I)
        for name, layer in zip(names, layers, strict=True):
            _weight(layer).mul_(factor_I)
            yield name, seen[name].divided(factor_I)


def _smooth_values(tower: nn.Module, seen: dict[str, Observed]) -> Iterator[tuple[str, Observed]]:
    """Divide the values that attention mixes, and multiply the weights of its output layer.

    A mixture of tokens leaves channels apart.
    """
    for name, module in list(tower.named_modules()):
        if isinstance(module, FusedAttention):
            inputs = module.qkv
        elif isinstance(module, FirstTokenLayer):
            inputs = module.keys_values
        else:
            continue
        out_name = f"{name}.out" if name else "out"
        if out_name not in seen:
            continue
        D = module.out.in_features
        factor_D = factors(seen[out_name].largest(), module.out.weight)
        inputs.weight[-D:].div_(factor_D[:, None])
        bias: Tensor | None = inputs.bias
        if bias is not None:
            bias[-D:].div_(factor_D)
        module.out.weight.mul_(factor_D)
        yield out_name, seen[out_name].divided(factor_D)


def _weight(layer: Any) -> Tensor:
    weight_OI: Tensor = layer.weight
    return weight_OI
