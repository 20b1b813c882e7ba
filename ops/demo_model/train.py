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
from model import (
    CATEGORIES,
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
# Scenes grow wilder: of the last images this share is of full training strength.
WILD_SHARE: Final = 0.6
MATRIX_RATE: Final = 0.004
OTHER_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 0.05
EMA: Final = 0.99
MAX_LOGIT_SCALE: Final = math.log(40.0)
CATEGORY_WEIGHT: Final = 0.5
NO_CATEGORY: Final = -1
WEIGHTS: Final = "weights.pt"
TEXT_STEPS: Final = 400
TEXT_RATE: Final = 2e-3
CHECKPOINT: Final = "checkpoint.pt"


@dataclass(frozen=True)
class Data:
    """All training drawings: RGBA N4SS, the object of each, and the category of each object."""

    rgba_N4SS: Tensor
    object_ids_N: Tensor
    category_ids_K: Tensor
    names: list[str]


def read_data(cache: Path) -> Data:
    """Return the drawings of every training design."""
    things = drawings.read_objects()
    designs = [drawings.load(design, cache) for design in drawings.TRAINING_DESIGNS]
    pixels = torch.from_numpy(np.concatenate([design.pixels for design in designs]))
    ids = torch.from_numpy(np.concatenate([design.object_ids for design in designs]))
    categories = [CATEGORIES.index(t.category) if t.category else NO_CATEGORY for t in things]
    names = [thing.name for thing in things]
    return Data(pixels.permute(0, 3, 1, 2).contiguous(), ids, torch.tensor(categories), names)


class ImageStage(nn.Module):
    """The model's image tower, with a vector for each object and each category."""

    def __init__(self, model: Any, data: Data) -> None:
        super().__init__()
        self.model = model
        self.data = data
        rows = len(data.names) + len(CATEGORIES)
        self.prototypes_KD = nn.Parameter(torch.randn(rows, model.config.projection_dim))

    def forward(self, images: Tensor, objects_B: Tensor) -> Tensor:
        """Return the cross-entropy over the objects plus that over the categories."""
        scale = self.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        prototypes_KD = F.normalize(self.prototypes_KD, dim=-1)
        logits_BK = scale * embed_images(self.model, images) @ prototypes_KD.T
        split = len(self.data.names)
        categories = self.data.category_ids_K[objects_B]
        by_object = F.cross_entropy(logits_BK[:, :split], objects_B)
        by_category = F.cross_entropy(logits_BK[:, split:], categories, ignore_index=NO_CATEGORY)
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


def batches(data: Data, steps: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield step, scenes and object ids; every drawing comes once before any comes again."""
    order = torch.Generator().manual_seed(1)
    queue = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(queue) < BATCH:
            queue = torch.cat([queue, torch.randperm(len(data.object_ids_N), generator=order)])
        picked_B, queue = queue[:BATCH], queue[BATCH:]
        wild = int(BATCH * WILD_SHARE * step / steps)
        dice = torch.Generator().manual_seed(step)
        rgba_B4SS = data.rgba_N4SS[picked_B]
        parts = [augment.scenes(rgba_B4SS[wild:], IMAGE_SIZE, augment.EVALUATION, dice)]
        if wild:
            parts.insert(0, augment.scenes(rgba_B4SS[:wild], IMAGE_SIZE, augment.TRAINING, dice))
        images = torch.cat(parts)
        for _ in range(ECHOES):
            yield step, images, data.object_ids_N[picked_B]
            images = _echo(images, dice)


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
    for step, images, objects_B in batches(stage.data, steps):
        stage.zero_grad()
        loss = stage(images, objects_B)
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
    parser.add_argument("--steps", type=int, default=1450, help="of the image tower")
    words = parser.parse_args()
    train(words.cache, words.out, words.steps)
