"""Measure what calibrated scores are worth: python ops/demo_model/calibration.py.

New renderings of the drawings, as in evaluate.py, and label sets of several sizes, drawn at random
from the 493 objects: of most images none of the labels is true. One threshold for all labels is
chosen on one rendering of each drawing, so that it is the best there, and told on another. The
figure is macro-F1: the mean over labels of the harmonic mean of precision and recall.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Final

import augment
import drawings
import numpy as np
import numpy.typing as npt
from evaluate import SEED, Model, scenes

from worker.artifact.manifest import default_artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.contract.scoring import shares, softmax
from worker.labels.encoder import LabelEncoder, LabelSet

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
from tables import markdown

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]
SIZES: Final = (10, 50, 150)
DRAWS: Final = 5
# Enough that no method loses by where they lie.
THRESHOLDS: Final = 400
_SAMPLED: Final = 100_000


def cosine(embeddings_ND: Floats, labels: LabelSet, _scale: float) -> Floats:
    """Return the plain cosines NK."""
    return embeddings_ND @ labels.matrix_KD.T


def of_the_set(embeddings_ND: Floats, labels: LabelSet, scale: float) -> Floats:
    """Return each label's share of the softmax over the set, NK."""
    return softmax(scale * cosine(embeddings_ND, labels, scale))


def calibrated(embeddings_ND: Floats, labels: LabelSet, scale: float) -> Floats:
    """Return each label's share against the background, NK."""
    assert labels.background is not None  # noqa: S101 - it was asked for
    matrix_JD, apart_JK = labels.background
    logits_NK = scale * cosine(embeddings_ND, labels, scale)
    return shares(logits_NK, scale * (embeddings_ND @ matrix_JD.T), apart_JK)


METHODS: Final[dict[str, Callable[[Floats, LabelSet, float], Floats]]] = {
    "cosine": cosine,
    "softmax over the set": of_the_set,
    "calibrated": calibrated,
}


def macro_f1(scores_NK: Floats, truth_NK: Truths, threshold: float) -> float:
    """Return the mean F1 of the labels that are true of some image."""
    found_NK = scores_NK >= threshold
    hits_K = (found_NK & truth_NK).sum(axis=0)
    sizes_K = found_NK.sum(axis=0) + truth_NK.sum(axis=0)
    return float(np.mean((2 * hits_K / np.maximum(sizes_K, 1))[truth_NK.any(axis=0)]))


def best_threshold(scores_NK: Floats, truth_NK: Truths) -> float:
    """Return the threshold of the highest macro-F1, of those between which the scores lie."""
    flat = np.sort(np.random.default_rng(0).choice(scores_NK.ravel(), _SAMPLED))
    shares_above = np.concatenate([np.linspace(0.5, 0.99, 50), 1 - np.logspace(-2, -5, THRESHOLDS)])
    tried = np.unique(np.quantile(flat, shares_above))
    return float(max(tried, key=lambda one: macro_f1(scores_NK, truth_NK, one)))


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cache", type=Path, default=Path("drawings"), help="fetched drawings")
    cache = options.parse_args().cache
    artifact = open_artifact(default_artifact())
    model, encoder = Model(artifact), LabelEncoder(artifact, "cpu")
    things = drawings.read_objects()
    drawn = [drawings.load(design, cache) for design in drawings.TRAINING_DESIGNS]
    names = np.array([things[n].name for design in drawn for n in design.object_ids])
    views = [
        np.concatenate([model.embed(scenes(one, augment.EVALUATION, SEED + view)) for one in drawn])
        for view in (0, 1)
    ]
    dice, rows = np.random.default_rng(0), []
    for size in (*SIZES, len(things)):
        found: dict[str, list[float]] = {name: [] for name in (*METHODS, "at 0.5")}
        for _ in range(DRAWS if size < len(things) else 1):
            labels = tuple(dice.choice([thing.name for thing in things], size, replace=False))
            pack = LabelPack(tuple(map(str, labels)), calibrated=True)
            label_set = encoder.encode(pack)
            truth_NK = names[:, None] == np.array(labels)[None]
            for name, method in METHODS.items():
                first, second = (
                    method(view.astype(np.float64), label_set, artifact.manifest.logit_scale)
                    for view in views
                )
                threshold = best_threshold(first, truth_NK)
                found[name].append(macro_f1(second, truth_NK, threshold))
                if method is calibrated:
                    found["at 0.5"].append(macro_f1(second, truth_NK, 0.5))
        rows.append([str(size), *(f"{fmean(figures):.3f}" for figures in found.values())])
        print(rows[-1], file=sys.stderr)
    print(markdown(["labels", *METHODS, "calibrated, at 0.5"], rows))


if __name__ == "__main__":
    main()
