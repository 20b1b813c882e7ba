"""Trained heads -> better at naming drawings: python ops/bundled_model/finish.py.

The heads of drawings learn on from new scenes, all together, so that what the whole model says is
right: the name among all labels, and the category among the six. Two pulls hold them: each weight
to what it was, and what is said of photographs to what was said of them before. The gate, the
classes and the head of a photograph's top category stay as they are.

Shapes: N drawings, M photographs, F features, C concepts, D = C + 2, K labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final, NamedTuple

import concepts
import drawings
import model
import photographs
import pictures
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from train import HEADS, Extractor

from worker.model.efficientnet_lite import SCALES

# Neither that of train.py nor those of evaluate.py.
SEED: Final = 7700
VIEWS: Final = 4
PHOTO_VIEWS: Final = 2
STEPS: Final = 1000
BATCH: Final = 768
PHOTO_BATCH: Final = 128
RATE: Final = 2e-4
# How much the category counts against the name, and how strong the two pulls are.
CATEGORY: Final = 0.5
PULL: Final = 1e-3
PHOTO_PULL: Final = 1.0
_LEARNING: Final = ("hidden", "objects", "plainly", "drawn")
_LEAST_STD: Final = 1e-3

State = dict[str, Tensor]


class Lesson(NamedTuple):
    """Features of drawings NF, their objects and categories N or NONE, and photographs' MF."""

    drawn_NF: Tensor
    objects_N: Tensor
    categories_N: Tensor
    photos_MF: Tensor


class Loose(nn.Module):
    """A linear layer that learns, over inputs that are standardised."""

    mean: Tensor
    std: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.weight = nn.Parameter(weight * std)
        self.bias = nn.Parameter(bias + weight @ mean)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        return F.linear((inputs - self.mean) / self.std, self.weight, self.bias)

    def over_inputs(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias over inputs as they come."""
        weight = (self.weight / self.std).detach()
        return weight.contiguous(), (self.bias - weight @ self.mean).detach()


class Learner:
    """The model's readout, of which some layers learn."""

    def __init__(self, size: str, trained: Path, drawn_NF: Tensor) -> None:
        known = concepts.build()
        self._readout = model.build(size, known, trained).readout
        self._state = load_file(trained / HEADS)
        self._layers = self._loosened(drawn_NF.float())
        self._before = [one.detach().clone() for one in self.parameters()]
        self._labels_K = torch.tensor([known.words[concepts.normal(one)] for one in known.labels])
        names = [one.name for one in drawings.read_objects()]
        objects = torch.tensor([known.words[concepts.normal(one)] for one in names])
        # The place among the labels of each object.
        self._places = (objects[:, None] == self._labels_K).int().argmax(dim=1)
        self._categories = torch.tensor([known.words[one] for one in drawings.CATEGORIES])

    def parameters(self) -> list[nn.Parameter]:
        """Return the weights and biases that learn."""
        return [one for layer in self._layers.values() for one in layer.parameters()]

    def rows(self, features_NF: Tensor) -> Tensor:
        """Return the logarithms of the concepts' probabilities, and a constant more, NC."""
        rows_ND: Tensor = self._readout(features_NF.float())
        return model.LENGTH * rows_ND[:, :-2]

    def loss(self, features_NF: Tensor, objects_N: Tensor, categories_N: Tensor) -> Tensor:
        """Return how wrong the names and the categories of drawings are."""
        rows_NC = self.rows(features_NF)
        names = F.cross_entropy(rows_NC[:, self._labels_K], self._places[objects_N])
        categories = F.cross_entropy(
            rows_NC[:, self._categories], categories_N, ignore_index=pictures.NONE
        )
        return names + CATEGORY * categories

    def moved(self) -> Tensor:
        """Return how far the weights are from where they were."""
        parts = zip(self.parameters(), self._before, strict=True)
        return torch.stack([((one - old) ** 2).sum() for one, old in parts]).sum()

    def state(self) -> State:
        """Return all heads, as they are saved."""
        found = dict(self._state)
        for name, layer in self._layers.items():
            weight, bias = layer.over_inputs()
            share = model.SHARES[name]
            found |= {f"{name}.weight": weight / share, f"{name}.bias": bias / share}
        return found

    def _loosened(self, drawn_NF: Tensor) -> dict[str, Loose]:
        """Put layers that learn into the readout in place of the packed ones."""
        spread = drawn_NF.mean(dim=0), drawn_NF.std(dim=0).clamp(min=_LEAST_STD)
        as_is = torch.zeros(1), torch.ones(1)
        found = {}
        for name in _LEARNING:
            weight = model.SHARES[name] * self._state[f"{name}.weight"]
            bias = model.SHARES[name] * self._state[f"{name}.bias"]
            mean, std = as_is if name == "objects" else spread
            size = weight.shape[1]
            found[name] = Loose(weight, bias, mean.expand(size), std.expand(size))
            setattr(self._readout, name, found[name])
        return found


def finish(learner: Learner, lesson: Lesson, steps: int = STEPS) -> State:
    """Return all heads, those of drawings better."""
    with torch.no_grad():
        said_MC = torch.softmax(learner.rows(lesson.photos_MF), dim=-1)
    dice = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam(learner.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picked = torch.randint(len(lesson.objects_N), (BATCH,), generator=dice)
        loss = learner.loss(
            lesson.drawn_NF[picked], lesson.objects_N[picked], lesson.categories_N[picked]
        )
        some = torch.randint(len(said_MC), (PHOTO_BATCH,), generator=dice)
        says_MC = torch.log_softmax(learner.rows(lesson.photos_MF[some]), dim=-1)
        loss = loss + PHOTO_PULL * F.kl_div(says_MC, said_MC[some], reduction="batchmean")
        loss = loss + PULL * learner.moved()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return learner.state()


def look(extractor: Extractor, cache: Path, views: int) -> Lesson:
    """Return the features of new scenes, and of the photographs."""
    dice = torch.Generator().manual_seed(SEED)
    named = pictures.read([*drawings.TRAINING_DESIGNS, *drawings.LINE_DESIGNS], cache)
    drawn_NF, which_N = extractor.all(
        pictures.scenes(named, views, extractor.side, dice), "drawings"
    )
    cut = pictures.cut_outs(photographs.load(cache), PHOTO_VIEWS, extractor.side, dice)
    photos_MF, _ = extractor.all(cut, "photographs")
    return Lesson(drawn_NF, named.object_ids_N[which_N], named.category_ids_N[which_N], photos_MF)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="lite2", choices=list(SCALES))
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched pictures")
    parser.add_argument("--trained", type=Path, default=Path("trained"))
    parser.add_argument("--views", type=int, default=VIEWS, help="of each drawing")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    seen = look(Extractor(options.size, torch.device("cpu")), options.cache, options.views)
    learning = Learner(options.size, options.trained, seen.drawn_NF)
    save_file(finish(learning, seen, options.steps), options.trained / HEADS)
