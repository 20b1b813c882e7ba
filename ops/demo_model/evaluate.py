"""Measure the figures that the model card gives: python ops/demo_model/evaluate.py.

Every image goes through the product's own path: a PNG file's bytes, the worker's decoder, the
TorchScript towers, the default prompt.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

import augment
import drawings
import numpy as np
import numpy.typing as npt
import torch
from drawings import CATEGORIES
from PIL import Image

from worker.artifact.manifest import Artifact, default_artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine
from worker.export.reprecision import reprecision
from worker.images.decode import decode
from worker.labels.encoder import LabelEncoder, LabelSet
from worker.model.precision import supported

# No seed of the training run comes near: that uses the numbers of its steps.
SEED: Final = 1_000_003
SCENE_SIZE: Final = 192
VIEWS: Final = 2
BATCH: Final = 32
# As a camera's smallest: a JPEG of this side is decoded at an eighth of it in fast mode.
LARGE_SIZE: Final = 1024
LARGE_QUALITY: Final = 90


class Model:
    """The artifact with its labels, as a worker holds it."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.precision = artifact.manifest.precision
        self._engine = TorchScriptEngine.load(artifact, "cpu")
        encoder = LabelEncoder(artifact, "cpu")
        self.objects: LabelSet = encoder.encode(LabelPack())
        self.categories: LabelSet = encoder.encode(LabelPack(labels=CATEGORIES))

    def embed(self, files: list[bytes], *, fast: bool = False) -> npt.NDArray[np.float32]:
        """Return unit embeddings, N x D."""
        preprocessing = self.artifact.manifest.preprocessing
        pixels = [decode(f, preprocessing, max_pixels=10**8, fast=fast) for f in files]
        rows = [infer(self._engine, pixels[n : n + BATCH]) for n in range(0, len(pixels), BATCH)]
        return np.concatenate(rows)


def scenes(design: drawings.Drawings, strength: augment.Strength, seed: int) -> list[bytes]:
    """Return one new scene of each drawing, as image files."""
    dice = torch.Generator().manual_seed(seed)
    rgba = torch.from_numpy(design.pixels).permute(0, 3, 1, 2)
    files: list[bytes] = []
    for start in range(0, len(rgba), BATCH):
        images = augment.scenes(rgba[start : start + BATCH], SCENE_SIZE, strength, dice)
        files += [_png((image * 255).byte().permute(1, 2, 0).numpy()) for image in images]
    return files


def plain(design: drawings.Drawings) -> list[bytes]:
    """Return each drawing as it is, on white."""
    return [_png(pixels) for pixels in design.pixels]


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def enlarged(file: bytes) -> bytes:
    """Return an image as a JPEG so large that fast decoding scales it down."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(file)) as image:
        large = image.resize((LARGE_SIZE, LARGE_SIZE), Image.Resampling.BICUBIC)
    large.save(buffer, "JPEG", quality=LARGE_QUALITY)
    return buffer.getvalue()


def top1(embeddings: npt.NDArray[np.float32], labels: LabelSet, truth: list[str]) -> list[bool]:
    """Return for each image whether its best label is the right one."""
    best = (embeddings @ labels.matrix_KD.T).argmax(axis=1)
    return [labels.labels[k] == right for k, right in zip(best, truth, strict=True)]


def figures(models: list[Model], cache: Path) -> dict[str, object]:
    """Measure everything that the card states of the first; of the others, what they lose."""
    model, *others = models
    things = drawings.read_objects()
    found: dict[str, object] = {"model": model.artifact.id, "objects": len(things)}
    for name, strength in (("new", augment.EVALUATION), ("hard", augment.TRAINING)):
        hits: dict[str, list[bool]] = defaultdict(list)
        for design in drawings.TRAINING_DESIGNS:
            drawn = drawings.load(design, cache)
            truth = [things[n].name for n in drawn.object_ids]
            for view in range(VIEWS if name == "new" else 1):
                files = scenes(drawn, strength, SEED + view)
                for one in models if name == "new" else [model]:
                    hits[one.precision] += top1(one.embed(files), one.objects, truth)
        found[f"{name} renderings, images"] = len(hits[model.precision])
        for precision, right in hits.items():
            found[f"{name} renderings, objects, {precision}"] = round(float(np.mean(right)), 4)
    found |= fast_decoding(model, cache, things)
    found |= held_out(model, cache, things)
    for one in others:
        held = held_out(one, cache, things)
        found[f"held-out design, categories, {one.precision}"] = held["held-out design, categories"]
    found["deviation of TorchScript"] = model.artifact.manifest.parity
    return found


def fast_decoding(model: Model, cache: Path, things: list[drawings.Object]) -> dict[str, object]:
    """Measure what fast decoding changes: one new rendering of each drawing, as a large JPEG."""
    same: list[bool] = []
    hits: dict[bool, list[bool]] = defaultdict(list)
    for design in drawings.TRAINING_DESIGNS:
        drawn = drawings.load(design, cache)
        truth = [things[n].name for n in drawn.object_ids]
        files = [enlarged(file) for file in scenes(drawn, augment.EVALUATION, SEED)]
        rows = {fast: model.embed(files, fast=fast) for fast in (False, True)}
        best = {fast: (found @ model.objects.matrix_KD.T).argmax(1) for fast, found in rows.items()}
        same += (best[True] == best[False]).tolist()
        for fast, found in rows.items():
            hits[fast] += top1(found, model.objects, truth)
    return {
        "large JPEGs, images": len(same),
        "large JPEGs, same object in fast and exact mode": round(float(np.mean(same)), 4),
        "large JPEGs, objects, exact": round(float(np.mean(hits[False])), 4),
        "large JPEGs, objects, fast": round(float(np.mean(hits[True])), 4),
    }


def held_out(model: Model, cache: Path, things: list[drawings.Object]) -> dict[str, object]:
    """Measure on the design that no training run has seen."""
    drawn = drawings.load(drawings.HELD_OUT_DESIGN, cache)
    owners = [things[n] for n in drawn.object_ids]
    embeddings = model.embed(plain(drawn))
    objects = top1(embeddings, model.objects, [owner.name for owner in owners])
    rows = [n for n, owner in enumerate(owners) if owner.category]
    truth = [owners[n].category for n in rows]
    hits = top1(embeddings[rows], model.categories, truth)
    by_category: dict[str, list[bool]] = defaultdict(list)
    for category, hit in zip(truth, hits, strict=True):
        by_category[category].append(hit)
    return {
        "held-out design, categories": round(float(np.mean(hits)), 4),
        "held-out design, images with a category": len(hits),
        "held-out design, each category": {
            name: f"{np.mean(by_category[name]):.3f} of {len(by_category[name])}"
            for name in CATEGORIES
        },
        "held-out design, objects": round(float(np.mean(objects)), 4),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched drawings")
    parser.add_argument("--model", type=Path, default=default_artifact())
    options = parser.parse_args()
    shipped = open_artifact(options.model)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as directory:
        faster = [
            reprecision(shipped, precision, Path(directory) / precision, cpu)
            for precision in supported(cpu)
            if precision != shipped.manifest.precision
        ]
        result = figures([Model(one) for one in (shipped, *faster)], options.cache)
    print(json.dumps(result, ensure_ascii=False, indent=1))
