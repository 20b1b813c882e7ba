"""Drawings -> a trained tiny Chinese-CLIP: python ops/demo_model/train.py.

First the image tower, with one free vector for each object and category; then the text tower learns
to put each name, in every prompt, where that vector lies. Two stages, because a text tower that is
still mute teaches the image tower nothing, and costs as much as it. Afterwards export.py makes the
artifact, and evaluate.py its figures.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
# So many of a batch are shapes and icons, which teach categories alone.
SHAPES: Final = 36
# Scenes cost more than learning from them: each batch is seen again, mirrored and shifted.
ECHOES: Final = 2
LARGEST_SHIFT: Final = 5
WARMUP_STEPS: Final = 40
# Scenes grow wilder: of the last images this share is of full training strength.
WILD_SHARE: Final = 0.6
MATRIX_RATE: Final = 0.004
OTHER_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 0.05
EMA: Final = 0.99
MAX_LOGIT_SCALE: Final = math.log(40.0)
CATEGORY_WEIGHT: Final = 0.7
WEIGHTS: Final = "weights.pt"
TEXT_STEPS: Final = 800
TEXT_RATE: Final = 2e-3
CHECKPOINT: Final = "checkpoint.pt"


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

    def forward(self, images: Tensor, objects_B: Tensor, categories_B: Tensor) -> Tensor:
        """Return the cross-entropy over the objects plus that over the categories."""
        scale = self.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        prototypes_KD = F.normalize(self.prototypes_KD, dim=-1)
        logits_BK = scale * embed_images(self.model, images) @ prototypes_KD.T
        split = len(self.data.names)
        by_object = F.cross_entropy(logits_BK[:, :split], objects_B, ignore_index=NONE)
        by_category = F.cross_entropy(logits_BK[:, split:], categories_B, ignore_index=NONE)
        return by_object + CATEGORY_WEIGHT * by_category

    def optimizers(self) -> list[torch.optim.Optimizer]:
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
                lr=MATRIX_RATE,
                weight_decay=WEIGHT_DECAY,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
        ]


def rate_at(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, level, linear to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS, 2.0 * (steps - step) / steps)


def batches(data: Data, steps: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield step, scenes, objects, categories; of a kind, all come once before any comes again."""
    order = torch.Generator().manual_seed(1)
    nameless_N = data.object_ids_N == NONE
    shapes = _rounds((nameless_N).nonzero()[:, 0], SHAPES, order)
    named = _rounds((~nameless_N).nonzero()[:, 0], BATCH - SHAPES, order)
    for step in range(steps):
        dice = torch.Generator().manual_seed(step)
        picked_B = torch.cat([next(shapes), next(named)])
        picked_B = picked_B[torch.randperm(BATCH, generator=dice)]
        wild = int(BATCH * WILD_SHARE * step / steps)
        rgba_B4SS = data.rgba_N4SS[picked_B]
        parts = [augment.scenes(rgba_B4SS[wild:], IMAGE_SIZE, augment.EVALUATION, dice)]
        if wild:
            parts.insert(0, augment.scenes(rgba_B4SS[:wild], IMAGE_SIZE, augment.TRAINING, dice))
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


def train_images(stage: ImageStage, steps: int, checkpoint: Path) -> None:
    """Train the image tower; it ends with the running average of its weights."""
    averaged = copy.deepcopy(stage)
    stage.train()
    optimizers = stage.optimizers()
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, ECHOES * steps))
        for optimizer in optimizers
    ]
    began_s = time.monotonic()
    for step, images, objects_B, categories_B in batches(stage.data, steps):
        stage.zero_grad()
        loss = stage(images, objects_B, categories_B)
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        _average(averaged, stage, min(EMA, (step + 1) / (step + 10)))
        if step % 25 == 0:
            print(
                f"images {step} loss {loss.item():.3f} {time.monotonic() - began_s:.0f} s",
                flush=True,
            )
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
    for step in range(TEXT_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = TEXT_RATE * rate_at(step, TEXT_STEPS)
        prompt = PROMPTS[step % len(PROMPTS)]
        texts_KD = embed_texts(model, tokenizer, [prompt.format(name) for name in names])
        loss = (1 - (texts_KD * prototypes_KD).sum(dim=-1)).mean()
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


def train(cache: Path, out: Path, steps: int) -> None:
    """Train both towers and save weights and tokenizer under `out`."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(drawings.read_objects())
    stage = ImageStage(build_model(len(tokenizer)), read_data(cache))
    train_images(stage, steps, out / CHECKPOINT)
    train_texts(stage, tokenizer)
    tokenizer.save_pretrained(out)
    torch.save(stage.model.state_dict(), out / WEIGHTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched drawings")
    parser.add_argument("--out", type=Path, default=Path("trained"), help="weights and tokenizer")
    parser.add_argument("--steps", type=int, default=2800, help="of the image tower")
    words = parser.parse_args()
    train(words.cache, words.out, words.steps)
