"""Drawings -> a trained tiny Chinese-CLIP: python ops/demo_model/train.py.

First the image tower, with one free vector for each object and category, in two phases: the second
learns categories more, from the objects' kinship too, which black shapes have no other part in.
Then the text tower learns to put each name, in every prompt, where its vector lies: a text tower
that is still mute would teach the image tower nothing, and cost as much as it. Afterwards export.py
makes the artifact, and evaluate.py its figures.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import augment
import drawings
import numpy as np
import torch
import torch.nn.functional as F
from drawings import CATEGORIES, NONE
from model import (
    IMAGE_SIZE,
    PROMPTS,
    build_model,
    build_tokenizer,
    embed_images,
    embed_texts,
)
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import BertTokenizer

BATCH: Final = 192
# Scenes cost more than learning from them: each batch is seen again, mirrored and shifted.
ECHOES: Final = 2
LARGEST_SHIFT: Final = 5
WARMUP_STEPS: Final = 40
# So many of the images are, in the end, of the phase's full strength.
WILD_SHARE: Final = 0.6
MATRIX_RATE: Final = 0.004
OTHER_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 0.05
EMA: Final = 0.99
MAX_LOGIT_SCALE: Final = math.log(40.0)
# Six rows among five hundred would hardly count.
CATEGORY_TEXT_WEIGHT: Final = 20.0
WEIGHTS: Final = "weights.pt"
TEXT_STEPS: Final = 1500
SEEDS_OF_A_PHASE: Final = 100_000
TEXT_RATE: Final = 2e-3
CHECKPOINT: Final = "checkpoint.pt"


@dataclass(frozen=True)
class Phase:
    """A part of the training of the image tower.

    `shapes` of a batch are shapes and icons, which teach categories alone. `category` and `kinship`
    weigh their losses against that of the objects. `level` is how long the rate stays at its
    peak: 2 is half of the steps. Scenes of the first phase grow wilder step by step.
    """

    number: int
    steps: int
    strength: augment.Strength
    shapes: int
    rate: float
    level: float
    category: float
    kinship: float


LEARNING: Final = Phase(
    number=1,
    steps=2800,
    strength=augment.TRAINING,
    shapes=36,
    rate=1.0,
    level=2.0,
    category=0.7,
    kinship=0.0,
)
FINISHING: Final = Phase(
    number=2,
    steps=1200,
    strength=augment.FINISHING,
    shapes=48,
    rate=0.4,
    level=1.0,
    category=1.5,
    kinship=0.5,
)


@dataclass(frozen=True)
class Data:
    """All training drawings: RGBA N4SS, the object and the category of each, or NONE."""

    rgba_N4SS: Tensor
    object_ids_N: Tensor
    category_ids_N: Tensor
    names: list[str]


def read_data(cache: Path) -> Data:
    """Return the drawings of everything that takes part in the training."""
    named = [drawings.load(design, cache) for design in drawings.TRAINING_DESIGNS]
    sets = (*drawings.SHAPE_DESIGNS, *drawings.ICON_SETS)
    shapes = [drawings.load(design, cache) for design in sets]
    pixels = np.concatenate([one.pixels for one in named + shapes])
    categories = np.concatenate([one.category_ids for one in named + shapes])
    objects = np.full(len(pixels), NONE)
    ids = np.concatenate([one.object_ids for one in named])
    objects[: len(ids)] = ids
    taught = (objects != NONE) | (categories != NONE)
    return Data(
        torch.from_numpy(pixels[taught]).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(objects[taught]),
        torch.from_numpy(categories[taught]),
        [thing.name for thing in drawings.read_objects()],
    )


class ImageStage(nn.Module):
    """The model's image tower, with a vector for each object and each category."""

    def __init__(self, model: Any, data: Data) -> None:
        super().__init__()
        self.model = model
        self.data = data
        rows = len(data.names) + len(CATEGORIES)
        self.prototypes_KD = nn.Parameter(torch.randn(rows, model.config.projection_dim))
        self.kin_CK = torch.tensor(
            [
                [thing.category == category for thing in drawings.read_objects()]
                for category in CATEGORIES
            ]
        )

    def forward(
        self, images: Tensor, objects_B: Tensor, categories_B: Tensor, phase: Phase
    ) -> Tensor:
        """Return the cross-entropy over the objects plus those over the categories.

        A category's share is that of its own vector, and again the sum of its objects' shares.
        """
        scale = self.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        prototypes_KD = F.normalize(self.prototypes_KD, dim=-1)
        logits_BK = scale * embed_images(self.model, images) @ prototypes_KD.T
        split = len(self.data.names)
        by_object = F.cross_entropy(logits_BK[:, :split], objects_B, ignore_index=NONE)
        by_category = F.cross_entropy(logits_BK[:, split:], categories_B, ignore_index=NONE)
        shares_BK = F.log_softmax(logits_BK[:, :split], dim=-1)
        of_kin_BC = torch.stack(
            [shares_BK[:, kin_K].logsumexp(dim=1) for kin_K in self.kin_CK], dim=1
        )
        by_kin = F.cross_entropy(of_kin_BC, categories_B, ignore_index=NONE)
        return by_object + phase.category * by_category + phase.kinship * by_kin

    def optimizers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Return Muon for the matrices of the tower, AdamW for everything else it trains."""
        tower, projection = self.model.vision_model, self.model.visual_projection
        named = [*tower.named_parameters(), *projection.named_parameters()]
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]  # noqa: PLR2004
        known = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in known]
        others += [self.prototypes_KD, self.model.logit_scale]
        return [
            torch.optim.Muon(
                matrices,
                lr=rate * MATRIX_RATE,
                weight_decay=WEIGHT_DECAY,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=rate * OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def rate_at(step: int, steps: int, level: float) -> float:
    """Return the share of the peak learning rate: linear warm-up, level, linear to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS, level * (steps - step) / steps)


def batches(data: Data, phase: Phase) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield step, scenes, objects, categories; of a kind, all come once before any comes again."""
    order = torch.Generator().manual_seed(phase.number)
    nameless_N = data.object_ids_N == NONE
    shapes = _rounds((nameless_N).nonzero()[:, 0], phase.shapes, order)
    named = _rounds((~nameless_N).nonzero()[:, 0], BATCH - phase.shapes, order)
    for step in range(phase.steps):
        dice = torch.Generator().manual_seed(SEEDS_OF_A_PHASE * (phase.number - 1) + step)
        picked_B = torch.cat([next(shapes), next(named)])
        picked_B = picked_B[torch.randperm(BATCH, generator=dice)]
        wild = int(BATCH * WILD_SHARE * (step / phase.steps if phase.number == 1 else 1.0))
        rgba_B4SS = data.rgba_N4SS[picked_B]
        parts = [augment.scenes(rgba_B4SS[wild:], IMAGE_SIZE, augment.EVALUATION, dice)]
        if wild:
            parts.insert(0, augment.scenes(rgba_B4SS[:wild], IMAGE_SIZE, phase.strength, dice))
        images = torch.cat(parts)
        for _ in range(ECHOES):
            yield step, images, data.object_ids_N[picked_B], data.category_ids_N[picked_B]
            images = _echo(images, dice)


def _rounds(numbers: Tensor, size: int, dice: torch.Generator) -> Iterator[Tensor]:
    """Yield `size` of the numbers again and again, in rounds of ever new order."""
    queue = numbers[:0]
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, numbers[torch.randperm(len(numbers), generator=dice)]])
        yield queue[:size]
        queue = queue[size:]


def _echo(images: Tensor, dice: torch.Generator) -> Tensor:
    """Mirror and shift a batch, and change its brightness: cheap, and new to the model."""
    down, right = torch.randint(-LARGEST_SHIFT, LARGEST_SHIFT + 1, (2,), generator=dice).tolist()
    moved = F.pad(images.flip(3), [LARGEST_SHIFT] * 4, mode="replicate")
    top, left = LARGEST_SHIFT + down, LARGEST_SHIFT + right
    moved = moved[:, :, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    gain = 0.8 + 0.4 * torch.rand(len(images), 3, 1, 1, generator=dice)
    return (moved * gain).clamp(0, 1)


def train_images(stage: ImageStage, phase: Phase, checkpoint: Path) -> None:
    """Train the image tower for a phase; it ends with the running average of its weights."""
    averaged = copy.deepcopy(stage)
    stage.train()
    optimizers = stage.optimizers(phase.rate)
    updates = ECHOES * phase.steps
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step, updates, phase.level)
        )
        for optimizer in optimizers
    ]
    began_s = time.monotonic()
    for step, images, objects_B, categories_B in batches(stage.data, phase):
        stage.zero_grad()
        loss = stage(images, objects_B, categories_B, phase)
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        _average(averaged, stage, min(EMA, (step + 1) / (step + 10)))
        if step % 25 == 0:
            took_s = time.monotonic() - began_s
            words = f"phase {phase.number} step {step} loss {loss.item():.3f} {took_s:.0f} s"
            print(words, flush=True)
        if step % 100 == 99:  # noqa: PLR2004
            torch.save(averaged.state_dict(), checkpoint)
    stage.load_state_dict(averaged.state_dict())
    stage.eval()


def train_texts(stage: ImageStage, tokenizer: BertTokenizer) -> None:
    """Train the text tower to put names and categories where their vectors lie."""
    model = stage.model
    towers = [*model.text_model.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(towers, lr=TEXT_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    prototypes_KD = F.normalize(stage.prototypes_KD.detach(), dim=-1)
    names = [*stage.data.names, *CATEGORIES]
    weights_K = torch.ones(len(names))
    weights_K[-len(CATEGORIES) :] = CATEGORY_TEXT_WEIGHT
    weights_K /= weights_K.sum()
    for step in range(TEXT_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = TEXT_RATE * rate_at(step, TEXT_STEPS, 2.0)
        prompt = PROMPTS[step % len(PROMPTS)]
        texts_KD = embed_texts(model, tokenizer, [prompt.format(name) for name in names])
        loss = ((1 - (texts_KD * prototypes_KD).sum(dim=-1)) * weights_K).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            print(f"texts {step} distance {loss.item():.4f}", flush=True)


def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    """Move the running average; batch statistics, which are averages already, are copied."""
    with torch.no_grad():
        for kept, new in zip(averaged.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1 - keep)
        for old, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
            old.copy_(buffer)


def train(cache: Path, out: Path, share: float) -> None:
    """Train both towers for a share of all steps; save weights and tokenizer under `out`."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(drawings.read_objects())
    stage = ImageStage(build_model(len(tokenizer)), read_data(cache))
    for phase in (LEARNING, FINISHING):
        steps = max(1, int(share * phase.steps))
        train_images(stage, replace(phase, steps=steps), out / CHECKPOINT)
    train_texts(stage, tokenizer)
    tokenizer.save_pretrained(out)
    torch.save(stage.model.state_dict(), out / WEIGHTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched drawings")
    parser.add_argument("--out", type=Path, default=Path("trained"), help="weights and tokenizer")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, for a trial")
    words = parser.parse_args()
    train(words.cache, words.out, words.share)
