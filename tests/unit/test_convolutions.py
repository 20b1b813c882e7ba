"""Networks of convolutions keep to oneDNN's layout on the CPU, and compute what they did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from worker.engines.convolutions import has_many, laid_out

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")
LAYERS = 30


class Norm(nn.Module):
    """A layer norm over channels, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, states_NCHW: torch.Tensor) -> torch.Tensor:
        rows = self.norm(states_NCHW.permute(0, 2, 3, 1))
        return torch.permute(rows, (0, 3, 1, 2))


def network(between: Callable[[], nn.Module] = nn.ReLU6, layers: int = LAYERS) -> nn.Module:
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Conv2d(4, 4, 1), between())]
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), *parts, nn.Flatten())


def frozen(module: nn.Module, dtype: torch.dtype = torch.float32) -> torch.jit.ScriptModule:
    traced = torch.jit.trace(module.to(dtype).eval(), images(2).to(dtype))  # type: ignore[no-untyped-call]
    found: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return found


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_network_of_convolutions_computes_the_same_in_the_other_layout(count: int) -> None:
    wanted = network().eval()(images(count))
    found = laid_out(frozen(network()))
    with torch.inference_mode():
        assert torch.allclose(found(images(count)), wanted, atol=1e-5)


def test_it_is_still_known_as_a_network_of_many_convolutions() -> None:
    module = frozen(network())
    changed = laid_out(module)
    assert changed.inlined_graph.findAllNodes("prim::mkldnn_convolution")  # type: ignore[attr-defined]
    assert has_many(module)
    assert has_many(changed)


@pytest.mark.parametrize(
    "module",
    [network(Norm), network(layers=3), network().to(torch.bfloat16)],
    ids=["layer norms", "few convolutions", "bfloat16"],
)
def test_others_stay_as_they_are(module: nn.Module) -> None:
    before = frozen(module, next(module.parameters()).dtype)
    assert laid_out(before) is before
