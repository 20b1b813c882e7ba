"""int8 of trained weights: rounding that cannot overflow, smoothing that changes nothing."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.engines.programs import load_program, save_program
from worker.engines.torchscript import load_module
from worker.export.tracing import trace
from worker.model.int8 import products
from worker.model.int8.layers import DividedLinear, QuantizedLinear, in_floats
from worker.model.int8.levels import MOST_PAIR, rounded
from worker.model.int8.observe import observe
from worker.model.int8.quantize import quantize
from worker.model.int8.smooth import smooth
from worker.model.precision import use_int8_engine
from worker.model.rewrite import FusedAttention

D = 32
TOKENS = 6


class Attention(nn.Module):
    """What `for_inference` knows how to rewrite."""

    head_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(D, D) for _ in range(4))


class Block(nn.Module):
    """A layer of a transformer; it normalises before, or after, as BERT does."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        attention = Attention()
        self.attention = FusedAttention(attention, attention.out_proj)
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.fc1, self.fc2 = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.norm_first = norm_first

    def forward(self, states: Tensor) -> Tensor:
        if self.norm_first:
            states = states + self.attention(self.norm1(states))[0]
            out: Tensor = states + self.fc2(F.gelu(self.fc1(self.norm2(states))))
            return out
        states = self.norm1(states + self.attention(states)[0])
        normed: Tensor = self.norm2(states + self.fc2(F.gelu(self.fc1(states))))
        return normed


class Tower(nn.Module):
    """Pixels of three channels -> unit rows."""

    blocks: Any
    head: Any

    def __init__(self, *, norm_first: bool = True, layers: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 4, D)
        self.blocks = nn.ModuleList(Block(norm_first=norm_first) for _ in range(layers))
        self.head = nn.Linear(D, 8)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        states = self.first(pixels_NCHW.float().reshape(pixels_NCHW.shape[0], TOKENS, -1) / 255)
        for block in self.blocks:
            states = block(states)
        return F.normalize(self.head(states.mean(dim=1)), dim=-1)


def pictures(count: int = 8, seed: int = 0) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, TOKENS), generator=dice, dtype=torch.uint8)


def tower(*, norm_first: bool = True, outliers: bool = False) -> Tower:
    torch.manual_seed(0)
    made = Tower(norm_first=norm_first).eval().requires_grad_(requires_grad=False)
    if outliers:
        for block in made.blocks:
            block.norm1.weight[3] *= 80
            block.norm1.bias[3] += 40
            block.attention.qkv.weight[:, 3] /= 80
            block.norm2.weight[7] *= 60
            block.fc1.weight[:, 7] /= 60
    return made


def least_cosine(found: nn.Module, wanted: nn.Module, seed: int = 1) -> float:
    given = pictures(16, seed)
    with torch.no_grad():
        return float(F.cosine_similarity(found(given), wanted(given)).min())


@pytest.mark.parametrize("inputs", [64, 63])
def test_no_pair_of_weights_can_overflow_sixteen_bits(inputs: int) -> None:
    # Two large ones side by side, of one sign, in each row; and a row of nothing.
    weight = torch.full((4, inputs), 0.01)
    weight[0, :2] = 1.0
    weight[1, 4:6] = -1.0
    weight[2, 4], weight[2, 5] = 1.0, -1.0
    weight[3] = 0
    levels, scale = rounded(weight, torch.ones(inputs))

    pairs = levels[:, : inputs // 2 * 2].int().view(4, -1, 2)
    assert int(pairs.sum(dim=2).abs().max()) <= MOST_PAIR
    assert int(levels.int().abs().max()) <= 127
    # Of opposite signs both may be as large as can be.
    assert abs(int(levels[2, 4])) > MOST_PAIR // 2
    assert torch.equal(levels[3], torch.zeros(inputs, dtype=torch.int8))
    assert torch.isfinite(scale).all()


def test_ordinary_weights_keep_eight_bits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    levels, scale = rounded(weight, torch.ones(256))
    missed = (levels * scale[:, None] - weight).norm() / weight.norm()
    # Seven bits, the usual way out, miss 0.016 and more.
    seven = weight.abs().amax(dim=1, keepdim=True) / 63
    usual = ((weight / seven).round() * seven - weight).norm() / weight.norm()
    assert missed < 0.75 * usual


def test_the_processor_adds_up_what_the_levels_say() -> None:
    """The largest activations on the largest weights, as whole numbers: no sum may saturate."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 48, bias=False).requires_grad_(requires_grad=False)
    layer.weight[:, :32] = layer.weight[:, :32].abs() + 0.2
    inputs = torch.rand(40, 64)
    inputs[:, :32] = 1.0
    made = QuantizedLinear(layer, observe(nn.Sequential(layer), [inputs])["0"])
    steps = 255 - made.zero
    exact = (inputs * steps).round() / steps @ (made.levels_OI * made.scale_O[:, None]).T
    assert torch.allclose(made(inputs), exact, rtol=1e-4, atol=1e-4)


def test_each_token_has_a_scale_of_its_own() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).requires_grad_(requires_grad=False)
    inputs = torch.randn(10, 64)
    inputs[0] *= 1000
    made = QuantizedLinear(layer, observe(nn.Sequential(layer), [inputs])["0"])
    found, wanted = made(inputs), layer(inputs)
    cosines = F.cosine_similarity(found - layer.bias, wanted - layer.bias)
    assert float(cosines.min()) > 0.9998


def test_inputs_that_are_hardly_negative_use_most_levels() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).requires_grad_(requires_grad=False)
    inputs = F.gelu(3 * torch.randn(200, 64))
    made = QuantizedLinear(layer, observe(nn.Sequential(layer), [inputs])["0"])
    assert made.zero <= 16
    assert torch.allclose(made(inputs), layer(inputs), atol=0.06)
    # More of it than was seen, and nothing at all.
    less = torch.full((1, 64), -0.5)
    assert torch.allclose(made(less), layer(less), atol=0.1)
    assert torch.allclose(made(torch.zeros(1, 64)), layer.bias, atol=1e-6)


def test_inputs_on_both_sides_of_zero_share_the_levels() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).requires_grad_(requires_grad=False)
    inputs = torch.randn(200, 64)
    # A row of nothing says nothing of the others.
    inputs[0] = 0
    assert QuantizedLinear(layer, observe(nn.Sequential(layer), [inputs])["0"]).zero >= 112
    nothing = observe(nn.Sequential(layer), [torch.zeros(4, 64)])["0"]
    assert QuantizedLinear(layer, nothing).zero == 128


def test_an_image_is_not_changed_by_those_beside_it() -> None:
    made = quantize(tower(outliers=True), pictures(), 0.999, bfloat16=False).tower
    together = made(pictures())
    alone = torch.cat([made(one[None]) for one in pictures()])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("has_vnni", [True, False])
def test_either_way_to_multiply_gives_the_same(
    has_vnni: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in files: traced or exported on one kind of processor, run on another."""
    wanted = quantize(tower(), pictures(), 0.99, bfloat16=False).tower(pictures())
    monkeypatch.setattr(products, "adds_in_32_bits", lambda: has_vnni)
    found = quantize(tower(), pictures(), 0.99, bfloat16=False).tower
    kinds = [one.as_convolution for one in found.modules() if isinstance(one, products.Product)]
    assert kinds == [not has_vnni] * len(kinds) != []
    assert torch.allclose(found(pictures()), wanted, atol=1e-5)

    monkeypatch.undo()
    cpu, operation = torch.device("cpu"), "qlinear_prepack" if has_vnni else "qconv_prepack"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert trace(found, (pictures(),), wanted, tmp_path / "tower.pt").max_abs < 1e-5
        save_program(found, (pictures(),), tmp_path / "tower.pt2")
        stored: Any = torch.jit.load(str(tmp_path / "tower.pt"))  # type: ignore[no-untyped-call]
        program: Any = load_program(tmp_path / "tower.pt2", cpu)
        assert torch.allclose(program(pictures()[:3]), wanted[:3], atol=1e-5)
    # Plain in the files, and packed once.
    loaded: Any = load_module(tmp_path / "tower.pt", cpu)
    assert len(stored.graph.findAllNodes(f"onednn::{operation}")) == len(kinds)
    assert not loaded.graph.findAllNodes(f"onednn::{operation}")
    operations = [str(one.target) for one in program.graph.nodes if one.op == "call_function"]
    assert any("onednn.q" in one for one in operations)
    assert not any("prepack" in one for one in operations)


@pytest.mark.parametrize("norm_first", [True, False])
def test_smoothing_changes_nothing(norm_first: bool) -> None:
    made = tower(norm_first=norm_first, outliers=True)
    before = copy.deepcopy(made)
    plain = observe(made, [pictures()])
    seen = smooth(made, plain, pictures())
    assert least_cosine(made, before) > 0.999999

    again = observe(made, [pictures()])
    for name, one in seen.items():
        assert torch.allclose(one.largest(), again[name].largest(), rtol=1e-2, atol=1e-3), name
    # Norms whose output is the residual, too, stay as they were.
    norm, other = made.blocks[0].norm1, before.blocks[0].norm1
    assert torch.equal(norm.weight, other.weight) is not norm_first
    # Values that attention mixes are smoothed in either.
    assert not torch.equal(
        made.blocks[0].attention.out.weight, before.blocks[0].attention.out.weight
    )


def test_outliers_do_not_hurt() -> None:
    made = tower(outliers=True)
    found = quantize(made, pictures(), 0.999, bfloat16=False)
    assert least_cosine(found.tower, made) > 0.999
    # What there was before: one scale for a tensor.
    use_int8_engine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual: Any = torch.ao.quantization.quantize_dynamic
        other = usual(copy.deepcopy(made), {nn.Linear})
    assert least_cosine(other, made) < 0.999


def test_layers_that_suffer_stay_in_floats() -> None:
    """One layer gets a weight that eight bits cannot hold: that one, and hardly another, stays."""
    made = tower()
    made.blocks[1].fc2.weight[:, 0] = 40 * torch.randn(D)
    made.blocks[1].fc1.weight[0] = 0
    made.blocks[1].fc1.bias[0] = -30.0
    made.blocks[1].fc1.weight[0, 0] = 10.0
    strict = quantize(made, pictures(), 0.99999, bfloat16=False)
    assert strict.in_floats
    assert strict.cosine >= quantize(made, pictures(), 0.9, bfloat16=False).cosine
    kept = {name for name, one in strict.tower.named_modules() if type(one) is nn.Linear}
    assert set(strict.in_floats) <= kept
    assert quantize(made, pictures(), 0.9, bfloat16=False).in_floats == ()


def test_layers_may_stay_in_bfloat16() -> None:
    made = tower()
    strict = quantize(made, pictures(), 0.999999, bfloat16=True)
    assert strict.in_floats
    rows = strict.tower(pictures())
    assert rows.dtype == torch.float32
    assert least_cosine(strict.tower, made) > 0.999


def test_what_is_small_stays_as_it_is() -> None:
    found: Any = quantize(tower(), pictures(), 0.99, bfloat16=False)
    assert type(found.tower.head) is nn.Linear
    assert type(found.tower.blocks[0].fc1) is QuantizedLinear


def test_the_tower_that_is_given_is_not_touched() -> None:
    made = tower(outliers=True)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    quantize(made, pictures(), 0.999, bfloat16=False)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in before.items())


def test_a_traced_tower_gives_the_same(tmp_path: Path) -> None:
    found = quantize(tower(outliers=True), pictures(), 0.999, bfloat16=False).tower
    with torch.no_grad():
        wanted = found(pictures())
    assert trace(found, (pictures(),), wanted, tmp_path / "tower.pt").max_abs < 1e-2


def test_layers_in_floats_for_libraries_that_round_themselves() -> None:
    found = quantize(tower(outliers=True), pictures(), 0.999, bfloat16=False).tower
    twin = in_floats(copy.deepcopy(found))
    kinds: Any = twin
    assert type(kinds.blocks[0].fc1) is DividedLinear
    assert least_cosine(twin, found) > 0.9999
