"""Drawings -> a trained tiny Chinese-CLIP: python ops/demo_model/train.py [--from ARTIFACT].

First the image tower, with one free vector for each object and category, in two phases: the second
learns categories more, from the objects' kinship too, which black shapes have no other part in.
`--from` goes on from an artifact of that with a third, on more drawings, half of them drawn anew.
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
import regions
import torch
import torch.nn.functional as F
from drawings import CATEGORIES, NONE
from model import (
    IMAGE_SIZE,
    PROMPT,
    PROMPTS,
    build_model,
    build_tokenizer,
    embed_images,
    embed_texts,
)
from torch import Tensor, nn

from worker.artifact.manifest import open_artifact
from worker.model.original import original_model

if TYPE_CHECKING:
    from transformers import BertTokenizer

BATCH: Final = 192
LARGEST_SHIFT: Final = 5
WARMUP_STEPS: Final = 40
# So many of the images are, in the end, of the phase's full strength.
WILD_SHARE: Final = 0.6
MATRIX_RATE: Final = 0.004
ADAM_RATE: Final = 1e-3
OTHER_RATE: Final = 2e-3
BETAS: Final = (0.9, 0.98)
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
    peak: 2 is half of the steps. Scenes of the first phase grow wilder step by step. So many of the
    drawings are `redrawn` in another style, and so many images `plain`: hardly changed, on white.
    Scenes cost more than learning from them: each batch is seen again, mirrored and shifted.
    Without `muon` AdamW trains the matrices too: Muon multiplies in bfloat16, which on a processor
    without instructions for it takes three times as long as all else.
    """

    number: int
    steps: int
    echoes: int
    strength: augment.Strength
    shapes: int
    rate: float
    level: float
    category: float
    kinship: float
    redrawn: float = 0.0
    plain: float = 0.0
    muon: bool = True


LEARNING: Final = Phase(
    number=1,
    steps=2800,
    echoes=2,
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
    echoes=2,
    strength=augment.FINISHING,
    shapes=48,
    rate=0.4,
    level=1.0,
    category=1.5,
    kinship=0.5,
)
REFINING: Final = Phase(
    number=3,
    steps=1400,
    echoes=2,
    strength=augment.FINISHING,
    shapes=64,
    rate=0.8,
    level=1.0,
    category=1.5,
    kinship=0.5,
    redrawn=0.5,
    plain=0.35,
    muon=False,
)


@dataclass(frozen=True)
class Data:
    """All training drawings: RGBA N4SS, the object and the category of each, or NONE.

    `regions_NSS` are the maps by which they can be redrawn, `weights_N` how often each is to come;
    without them, all come equally often.
    """

    rgba_N4SS: Tensor
    object_ids_N: Tensor
    category_ids_N: Tensor
    names: list[str]
    regions_NSS: Tensor | None = None
    weights_N: Tensor | None = None


def read_data(cache: Path, *, more: bool = False) -> Data:
    """Return the drawings of everything that takes part in the training, or in its third phase."""
    designs = [*drawings.TRAINING_DESIGNS, *(drawings.LINE_DESIGNS if more else ())]
    sets = [*drawings.SHAPE_DESIGNS, *drawings.ICON_SETS]
    sets += [*(drawings.MORE_ICON_SETS if more else ())]
    named = [drawings.load(design, cache) for design in designs]
    shapes = [drawings.load(design, cache) for design in sets]
    pixels = np.concatenate([one.pixels for one in named + shapes])
    categories = np.concatenate([one.category_ids for one in named + shapes])
    objects = np.full(len(pixels), NONE)
    ids = np.concatenate([one.object_ids for one in named])
    objects[: len(ids)] = ids
    taught = (objects != NONE) | (categories != NONE)
    data = Data(
        torch.from_numpy(pixels[taught]).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(objects[taught]),
        torch.from_numpy(categories[taught]),
        [thing.name for thing in drawings.read_objects()],
    )
    if not more:
        return data
    maps = torch.cat([regions.load(design, cache) for design in designs + sets])
    return replace(data, regions_NSS=maps[torch.from_numpy(taught)], weights_N=_weights(data))


def _weights(data: Data) -> Tensor:
    """Return how often each drawing is to come: few plants are drawn, and many animals.

    Icons are drawn so that their categories come equally often, objects half of the way to that.
    """
    nameless_N = data.object_ids_N == NONE
    weights_N = torch.ones(len(nameless_N))
    for kind_N, power in ((nameless_N, 1.0), (~nameless_N, 0.5)):
        counts_C = (data.category_ids_N[kind_N] + 1).bincount(minlength=len(CATEGORIES) + 1)
        share_C = (counts_C.clamp(min=1) / counts_C.max()) ** -power
        weights_N[kind_N] = share_C[data.category_ids_N[kind_N] + 1]
    return weights_N


class ImageStage(nn.Module):
    """The model's image tower, with a vector for each object and each category."""

    def __init__(self, model: Any, data: Data, prototypes_KD: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.data = data
        if prototypes_KD is None:
            rows = len(data.names) + len(CATEGORIES)
            prototypes_KD = torch.randn(rows, model.config.projection_dim)
        self.prototypes_KD = nn.Parameter(prototypes_KD)
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

    def optimizers(self, phase: Phase) -> list[torch.optim.Optimizer]:
        """Return one for the matrices of the tower, and AdamW for everything else it trains."""
        tower, projection = self.model.vision_model, self.model.visual_projection
        named = [*tower.named_parameters(), *projection.named_parameters()]
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]  # noqa: PLR2004
        known = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in known]
        others += [self.prototypes_KD, self.model.logit_scale]
        of_matrices: torch.optim.Optimizer
        if phase.muon:
            of_matrices = torch.optim.Muon(
                matrices,
                lr=phase.rate * MATRIX_RATE,
                weight_decay=WEIGHT_DECAY,
                adjust_lr_fn="match_rms_adamw",
            )
        else:
            of_matrices = torch.optim.AdamW(
                matrices, lr=phase.rate * ADAM_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
            )
        rate = phase.rate * OTHER_RATE
        return [of_matrices, torch.optim.AdamW(others, lr=rate, betas=BETAS, weight_decay=0.0)]


def rate_at(step: int, steps: int, level: float) -> float:
    """Return the share of the peak learning rate: linear warm-up, level, linear to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS, level * (steps - step) / steps)


def batches(data: Data, phase: Phase) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield step, scenes, objects, categories; of a kind, all come once before any comes again."""
    order = torch.Generator().manual_seed(phase.number)
    nameless_N = data.object_ids_N == NONE
    shapes = _drawn(nameless_N.nonzero()[:, 0], phase.shapes, data.weights_N, order)
    named = _drawn((~nameless_N).nonzero()[:, 0], BATCH - phase.shapes, data.weights_N, order)
    for step in range(phase.steps):
        dice = torch.Generator().manual_seed(SEEDS_OF_A_PHASE * (phase.number - 1) + step)
        picked_B = torch.cat([next(shapes), next(named)])
        picked_B = picked_B[torch.randperm(BATCH, generator=dice)]
        images = torch.cat(_scenes(data, picked_B, phase, step, dice))
        for _ in range(phase.echoes):
            yield step, images, data.object_ids_N[picked_B], data.category_ids_N[picked_B]
            images = _echo(images, dice)


def _scenes(
    data: Data, picked_B: Tensor, phase: Phase, step: int, dice: torch.Generator
) -> list[Tensor]:
    """Return scenes of the picked drawings, in order: wild, plain, and some in between."""
    wild = int(BATCH * WILD_SHARE * (step / phase.steps if phase.number == 1 else 1.0))
    plain = int(BATCH * phase.plain)
    wild -= int(wild * phase.plain)
    rgba_B4SS = data.rgba_N4SS[picked_B]
    if data.regions_NSS is not None:
        anew_R = (torch.rand(BATCH, generator=dice) < phase.redrawn).nonzero()[:, 0]
        maps_RSS = data.regions_NSS[picked_B[anew_R]]
        rgba_B4SS[anew_R] = augment.redrawn(rgba_B4SS[anew_R], maps_RSS, dice)
    parts = (
        (rgba_B4SS[:wild], phase.strength),
        (rgba_B4SS[wild : wild + plain], augment.PLAIN),
        (rgba_B4SS[wild + plain :], augment.EVALUATION),
    )
    return [
        augment.scenes(part, IMAGE_SIZE, strength, dice) for part, strength in parts if len(part)
    ]


def _drawn(
    numbers: Tensor, size: int, weights_N: Tensor | None, dice: torch.Generator
) -> Iterator[Tensor]:
    """Yield `size` of the numbers again and again: by weight, or in rounds of ever new order."""
    if weights_N is None:
        yield from _rounds(numbers, size, dice)
    else:
        while True:
            yield numbers[torch.multinomial(weights_N[numbers], size, generator=dice)]


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
    optimizers = stage.optimizers(phase)
    updates = phase.echoes * phase.steps
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
            options = f"phase {phase.number} step {step} loss {loss.item():.3f} {took_s:.0f} s"
            print(options, flush=True)
        if step % 100 == 99:  # noqa: PLR2004
            torch.save(averaged.state_dict(), checkpoint)
    stage.load_state_dict(averaged.state_dict())
    stage.eval()


def train_texts(stage: ImageStage, tokenizer: BertTokenizer) -> None:
    """Train the text tower to put names and categories where their vectors lie."""
    model = stage.model
    towers = [*model.text_model.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(towers, lr=TEXT_RATE, betas=BETAS, weight_decay=0.01)
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
    tokenizer = build_tokenizer(drawings.read_objects())
    stage = ImageStage(build_model(len(tokenizer)), read_data(cache))
    _train(stage, tokenizer, (LEARNING, FINISHING), out, share)


def train_on(source: Path, cache: Path, out: Path, share: float, times: int) -> None:
    """Do the third phase, from an artifact, for the first or a further time; save as `train` does.

    Each time picks and draws other scenes.
    """
    torch.manual_seed(times - 1)
    phase = replace(REFINING, number=REFINING.number + times - 1)
    tokenizer = build_tokenizer(drawings.read_objects())
    model = original_model(open_artifact(source))
    data = read_data(cache, more=True)
    with torch.no_grad():
        texts = [PROMPT.format(name) for name in (*data.names, *CATEGORIES)]
        # As long as vectors that start at random, so that the rate means the same.
        prototypes_KD = embed_texts(model, tokenizer, texts) * model.config.projection_dim**0.5
    _train(ImageStage(model.requires_grad_(), data, prototypes_KD), tokenizer, (phase,), out, share)


def _train(
    stage: ImageStage,
    tokenizer: BertTokenizer,
    phases: tuple[Phase, ...],
    out: Path,
    share: float,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for phase in phases:
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
    parser.add_argument("--from", dest="source", type=Path, help="an artifact, to refine it")
    parser.add_argument("--time", type=int, default=1, help="how often it was refined, plus one")
    options = parser.parse_args()
    if options.source:
        train_on(options.source, options.cache, options.out, options.share, options.time)
    else:
        train(options.cache, options.out, options.share)
