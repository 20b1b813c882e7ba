"""worker/model/packed.py and the network that ships in it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from tiny_model import save_traced

from worker.engines.torchscript import is_packed, load_module
from worker.model.concepts import Sums
from worker.model.efficientnet_lite import FEATURES, Convolution, EfficientNetLite, Scale
from worker.model.packed import Packed, PackedConv, PackedLinear, pack

TINY = Scale(0.25, 0.5, 33)


def test_a_weight_comes_back_to_within_half_a_level_of_its_row() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    packed = Packed((5, 7))
    packed.pack(weight)
    levels = (packed(weight) - weight).abs() / packed.scale
    assert levels.max() <= 0.5 + 1e-4


def test_a_scale_is_never_rounded_with_the_rest() -> None:
    layer = PackedLinear(3, 4)
    layer.fill(torch.rand(3, 4), torch.rand(3))
    layer.to(torch.bfloat16)
    assert layer.weight.scale.dtype == torch.float32
    assert layer(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [9, 10])
def test_a_packed_convolution_pads_as_the_plain_one(side: int, stride: int) -> None:
    plain = Convolution(2, 4, 3, stride, 1)
    packed = PackedConv(plain)
    plain.weight.data = packed.weight(plain.weight)
    images = torch.rand(1, 2, side, side)
    torch.testing.assert_close(packed(images), plain(images))
    assert plain(images).shape[-1] == -(-side // stride)


def test_a_packed_network_ships_in_eight_bits_and_loads_as_floats(tmp_path: Path) -> None:
    network = pack(EfficientNetLite(TINY), Convolution).eval()
    images = torch.rand(2, 3, TINY.side, TINY.side)
    with torch.no_grad():
        wanted = network(images)
    save_traced(network, (images,), tmp_path / "network.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert is_packed(torch.jit.load(str(tmp_path / "network.pt")))  # type: ignore[no-untyped-call]
    loaded = load_module(tmp_path / "network.pt", torch.device("cpu"))
    assert not is_packed(loaded)
    assert wanted.shape == (2, FEATURES)
    torch.testing.assert_close(loaded(images), wanted)


def test_sums_add_up_the_shares_of_what_belongs_to_each() -> None:
    sums = Sums(((0, 0, 1.0), (1, 0, 1.0), (1, 2, 0.5)), concepts=3)
    torch.testing.assert_close(
        sums(torch.tensor([[0.25, 0.5], [0.0, 1.0]])),
        torch.tensor([[0.75, 0.0, 0.25], [1.0, 0.0, 0.5]]),
    )
