"""A tower and pictures -> what goes into each of its linear layers.

Shapes: N images, C channels, H x W pixels, I inputs of a layer, R rows that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

# Rows of a layer that are kept from each batch, to try on it what quantising changes.
_ROWS: Final = 96


class Observed(msgspec.Struct):
    """What went into a layer: bounds and mean square by channel, some rows, and the number of all.

    `norm` is the name of the layer norm whose output it was, if it was one's.
    """

    low_I: Tensor
    high_I: Tensor
    square_I: Tensor
    rows_RI: Tensor
    rows: int
    norm: str | None

    def largest(self) -> Tensor:
        """Return the largest magnitude by channel, I."""
        return torch.maximum(self.high_I, -self.low_I)

    def divided(self, factor_I: Tensor) -> Observed:
        """Return what it would be, were the inputs divided by `factor_I`."""
        return Observed(
            self.low_I / factor_I,
            self.high_I / factor_I,
            self.square_I / factor_I.square(),
            self.rows_RI / factor_I,
            self.rows,
            self.norm,
        )

    def merged(self, other: Observed) -> Observed:
        """Return both as one."""
        rows = self.rows + other.rows
        share = self.rows / rows
        return Observed(
            torch.minimum(self.low_I, other.low_I),
            torch.maximum(self.high_I, other.high_I),
            share * self.square_I + (1 - share) * other.square_I,
            torch.cat([self.rows_RI, other.rows_RI]),
            rows,
            self.norm if self.norm == other.norm else None,
        )


def observe(tower: nn.Module, batches: list[Tensor]) -> dict[str, Observed]:
    """Run batches of pixels NCHW, and return what each linear layer was given, by its name."""
    found: dict[str, Observed] = {}
    for pixels_NCHW in batches:
        with _hooks(tower, found), torch.no_grad():
            tower(pixels_NCHW)
    return found


@contextmanager
def _hooks(tower: nn.Module, found: dict[str, Observed]) -> Iterator[None]:
    # Outputs are kept alive for the pass, so that no other tensor takes their place in memory.
    normed: dict[int, tuple[str, Tensor]] = {}
    handles = []
    for name, module in tower.named_modules():
        if isinstance(module, nn.LayerNorm):
            handles.append(module.register_forward_hook(_norm_hook(name, normed)))
        elif isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(_linear_hook(name, normed, found)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norm_hook(name: str, normed: dict[int, tuple[str, Tensor]]) -> Any:
    def note(_module: Any, _inputs: Any, output: Tensor) -> None:
        normed[output.untyped_storage().data_ptr()] = (name, output)

    return note


def _linear_hook(
    name: str, normed: dict[int, tuple[str, Tensor]], found: dict[str, Observed]
) -> Any:
    def note(_module: Any, inputs: tuple[Tensor, ...], _output: Any) -> None:
        source = normed.get(inputs[0].untyped_storage().data_ptr())
        seen = _seen(inputs[0].detach().flatten(0, -2), source[0] if source else None)
        found[name] = found[name].merged(seen) if name in found else seen

    return note


def _seen(inputs_RI: Tensor, norm: str | None) -> Observed:
    step = max(1, len(inputs_RI) // _ROWS)
    return Observed(
        inputs_RI.amin(dim=0),
        inputs_RI.amax(dim=0),
        inputs_RI.square().mean(dim=0),
        inputs_RI[::step][:_ROWS].clone(),
        len(inputs_RI),
        norm,
    )
