"""Features -> heads: what the thousand classes do not say, learnt by linear layers alone.

Shapes: N pictures, F features, O objects, C categories, T top categories.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS: Final = 2500
BATCH: Final = 8192
RATE: Final = 2e-3
DECAY: Final = 0.02
DROPPED: Final = 0.2
_LEAST_STD: Final = 1e-3


class Head(NamedTuple):
    """A linear layer over features: weight OF and bias O."""

    weight_OF: Tensor
    bias_O: Tensor


class Deep(NamedTuple):
    """Two layers with a ReLU between them."""

    first: Head
    second: Head


class Lesson(NamedTuple):
    """Features NF, the right output of each N, and how much each counts N."""

    features_NF: Tensor
    targets_N: Tensor
    weights_N: Tensor


def balanced(targets_N: Tensor, power: float) -> Tensor:
    """Return weights by which rare targets count more; with a power of 1 all count the same."""
    counts = targets_N.bincount().clamp(min=1).float()
    weights = (counts / counts.max()) ** -power
    found = weights[targets_N]
    return found / found.mean()


def learn(lesson: Lesson, outputs: int, *, smooth: float = 0.0, steps: int = STEPS) -> Head:
    """Return the layer that tells the targets apart."""
    spread = mean_F, std_F = _spread(lesson.features_NF)
    layer = nn.Linear(len(mean_F), outputs, device=mean_F.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    _fit(layer, lesson, spread, smooth, steps)
    return _of_features(layer, mean_F, std_F)


def learn_deep(
    lesson: Lesson, hidden: int, outputs: int, *, smooth: float = 0.0, steps: int = STEPS
) -> Deep:
    """Return two layers that tell the targets apart."""
    spread = mean_F, std_F = _spread(lesson.features_NF)
    first = nn.Linear(len(mean_F), hidden, device=mean_F.device)
    second = nn.Linear(hidden, outputs, device=mean_F.device)
    layers = nn.Sequential(first, nn.ReLU(), nn.Dropout(DROPPED), second)
    _fit(layers, lesson, spread, smooth, steps)
    return Deep(_of_features(first, mean_F, std_F), Head(second.weight.data, second.bias.data))


def _fit(
    layers: nn.Module, lesson: Lesson, spread: tuple[Tensor, Tensor], smooth: float, steps: int
) -> None:
    mean_F, std_F = spread
    device = mean_F.device
    dice = torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    size = min(BATCH, len(lesson.targets_N))
    for _ in range(steps):
        picked = torch.randint(len(lesson.targets_N), (size,), generator=dice, device=device)
        rows = (lesson.features_NF[picked].float() - mean_F) / std_F
        losses = F.cross_entropy(
            layers(rows), lesson.targets_N[picked], reduction="none", label_smoothing=smooth
        )
        loss = (losses * lesson.weights_N[picked]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    layers.requires_grad_(requires_grad=False)


def _of_features(layer: nn.Linear, mean_F: Tensor, std_F: Tensor) -> Head:
    """Return a layer over standardised features as one over the features themselves."""
    weight_OF = layer.weight.data / std_F
    return Head(weight_OF, layer.bias.data - weight_OF @ mean_F)


def _spread(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each feature, by a part of the pictures."""
    some = features_NF[:: max(1, len(features_NF) // 50_000)].float()
    return some.mean(dim=0), some.std(dim=0).clamp(min=_LEAST_STD)
