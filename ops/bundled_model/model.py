"""Trained heads and tables -> the bundled model, untraced."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import backbone
import class_tables
import concepts
import drawings
from safetensors.torch import load_file
from torch import nn
from train import HEADS

from worker.model.concepts import ConceptConfig, ConceptModel
from worker.model.efficientnet_lite import Convolution
from worker.model.packed import PackedLinear, pack

# Longer than any row of the pictures that it was measured with: longer ones would be shortened.
LENGTH: Final = 200.0
# By what each head's outputs are multiplied: the two of objects are averaged.
SHARES: Final = {
    "hidden": 1.0,
    "objects": 0.5,
    "plainly": 0.5,
    "drawn": 1.0,
    "tops": 1.0,
    "gate": 1.0,
    "nothing": 1.0,
}


def config(size: str, known: concepts.Concepts, hidden: int) -> ConceptConfig:
    """Return sizes and tables of the model."""
    tops = class_tables.tops()
    return ConceptConfig(
        network=size,
        classes=len(class_tables.classes()),
        tops=len(tops),
        objects=len(drawings.read_objects()),
        hidden=hidden,
        concepts=len(known.names),
        shown=tuple(known.shown),
        drawn=tuple(known.drawn),
        drawn_tops=tuple(tops.index(name) for name in drawings.CATEGORIES),
        length=LENGTH,
    )


def build(size: str, known: concepts.Concepts, trained: Path) -> ConceptModel:
    """Return the model with the published weights and the trained heads."""
    heads = load_file(trained / HEADS)
    hidden = len(heads["hidden.bias"])
    model = ConceptModel(config(size, known, hidden)).eval().requires_grad_(requires_grad=False)
    published = backbone.load(size)
    model.network.load_state_dict(pack(published.network, Convolution).state_dict())
    model.readout.classes.fill(published.weight_KF, published.bias_K)
    for name, share in SHARES.items():
        layer: nn.Module = getattr(model.readout, name)
        assert isinstance(layer, PackedLinear)  # noqa: S101 - for mypy
        layer.fill(share * heads[f"{name}.weight"], share * heads[f"{name}.bias"])
    return model
