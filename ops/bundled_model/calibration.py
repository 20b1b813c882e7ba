"""Measure what calibrated scores are worth: python ops/bundled_model/calibration.py --cache DIR.

Label sets of several sizes are drawn at random from the words for what the pictures show: of most
pictures none of a small set is true. One threshold for all labels is chosen where it is the best on
some pictures, and measured on others: on new renderings of four designs of drawings and of three,
or on the stamps on three grounds and on the three others. The figure is macro-F1: the mean over
labels of the harmonic mean of precision and recall.

Shapes: N pictures, K labels, D embedding dimensions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Final, NamedTuple

import augment
import drawings
import numpy as np
import numpy.typing as npt
import stamps
from concepts import ALSO_DRAWN
from evaluate import SEED, Model, Rows, scenes

from worker.artifact.manifest import default_artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.contract.scoring import Scale, score
from worker.labels.encoder import LabelEncoder

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
from tables import markdown

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]
SIZES: Final = (10, 50, 150)
DRAWS: Final = 5
DEFAULT: Final = 0.5
COSINE: Final = "cosine"
SOFTMAX: Final = "softmax over the set"
CALIBRATED: Final = "calibrated"
METHODS: Final = (COSINE, SOFTMAX, CALIBRATED)
AT_DEFAULT: Final = f"calibrated, at {DEFAULT}"
BESTS: Final = (f"best threshold, {SOFTMAX}", f"best threshold, {CALIBRATED}")
# Enough that no method loses by where they lie.
_THRESHOLDS: Final = 400
_SAMPLED: Final = 100_000


class Half(NamedTuple):
    """Embeddings of pictures, ND, and for each the words that are true of it."""

    rows_ND: Rows
    names: list[frozenset[str]]

    def truth(self, labels: Sequence[str]) -> Truths:
        """Return which labels are true of which pictures, NK."""
        return np.array([[label in some for label in labels] for some in self.names])


def of_drawings(model: Model, cache: Path) -> Iterator[Half]:
    """Yield renderings of every other training design, and of those between."""
    kinds = {member: kind for kind, members in ALSO_DRAWN.items() for member in members}
    things = drawings.read_objects()
    drawn = [drawings.load(design, cache) for design in drawings.TRAINING_DESIGNS]
    for start in (0, 1):
        some = drawn[start::2]
        names = [things[n].name for one in some for n in one.object_ids]
        files = chain.from_iterable(scenes(one, augment.EVALUATION, SEED) for one in some)
        yield Half(model.embed(files), [frozenset({name, kinds.get(name, name)}) for name in names])


def of_stamps(model: Model, folder: Path) -> Iterator[Half]:
    """Yield the stamps that have names on every other ground, and on those between."""
    known = [one for one in stamps.read(folder) if one.names]
    files = [[file for _, file in stamps.on_grounds(one)] for one in known]
    for start in (0, 1):
        some = [
            (file, one.names) for one, of in zip(known, files, strict=True) for file in of[start::2]
        ]
        names = [frozenset(of) for _, of in some]
        yield Half(model.embed(file for file, _ in some), names)


class Measure:
    """Label sets of the bundled model, and how well their scores separate."""

    def __init__(self, model: Model, encoder: LabelEncoder, scale: float) -> None:
        self._model, self._encoder, self._scale = model, encoder, Scale(scale)

    def table(self, halves: Sequence[Half]) -> str:
        """Return a row for each size of label sets, as Markdown."""
        dice, rows = np.random.default_rng(0), []
        halves = [self._one_word_each(half) for half in halves]
        named = sorted(frozenset().union(*halves[0].names))
        for size in (*(one for one in SIZES if one < len(named)), len(named)):
            sets = [
                [str(word) for word in dice.choice(named, size, replace=False)]
                for _ in range(DRAWS if size < len(named) else 1)
            ]
            measured = [self._one(halves, labels) for labels in sets]
            figures = [fmean(one[key] for one in measured) for key in (*METHODS, AT_DEFAULT)]
            figures += [median(one[key] for one in measured) for key in BESTS]
            rows.append([str(size), *(f"{figure:.3f}" for figure in figures)])
            print(rows[-1], file=sys.stderr, flush=True)
        return markdown(["labels", *METHODS, AT_DEFAULT, *BESTS], rows)

    def _one_word_each(self, half: Half) -> Half:
        """Let each concept have one word: two for the same are refused in a set."""
        named = sorted(frozenset().union(*half.names))
        concepts_K = self._model.embed_words(named).argmax(axis=1).tolist()
        firsts = dict(zip(reversed(concepts_K), reversed(named), strict=True))
        kept = {word: firsts[n] for word, n in zip(named, concepts_K, strict=True)}
        return Half(half.rows_ND, [frozenset(kept[word] for word in some) for some in half.names])

    def _one(self, halves: Sequence[Half], labels: Sequence[str]) -> dict[str, float]:
        first, second = (dict(self._scores(half, labels)) for half in halves)
        truths = [half.truth(labels) for half in halves]
        bests = {key: best_threshold(first[key], truths[0]) for key in METHODS}
        found = {key: macro_f1(second[key], truths[1], best) for key, best in bests.items()}
        found |= {f"best threshold, {key}": best for key, best in bests.items()}
        return found | {AT_DEFAULT: macro_f1(second[CALIBRATED], truths[1], DEFAULT)}

    def _scores(self, half: Half, labels: Sequence[str]) -> Iterator[tuple[str, Floats]]:
        of_labels = self._encoder.encode(LabelPack(tuple(labels), calibrated=True))
        matrix_KD = of_labels.matrix_KD
        yield COSINE, (half.rows_ND @ matrix_KD.T).astype("f8")
        yield SOFTMAX, score(half.rows_ND, matrix_KD, self._scale, None)
        yield CALIBRATED, score(half.rows_ND, matrix_KD, self._scale, of_labels.background)


def macro_f1(scores_NK: Floats, truth_NK: Truths, threshold: float) -> float:
    """Return the mean F1 of the labels that are true of some picture."""
    found_NK = scores_NK >= threshold
    hits_K = (found_NK & truth_NK).sum(axis=0)
    sizes_K = found_NK.sum(axis=0) + truth_NK.sum(axis=0)
    return float(np.mean((2 * hits_K / np.maximum(sizes_K, 1))[truth_NK.any(axis=0)]))


def best_threshold(scores_NK: Floats, truth_NK: Truths) -> float:
    """Return the threshold of the highest macro-F1, of those between which the scores lie."""
    flat = np.sort(np.random.default_rng(0).choice(scores_NK.ravel(), _SAMPLED))
    above = np.concatenate([np.linspace(0.5, 0.99, 50), 1 - np.logspace(-2, -5, _THRESHOLDS)])
    tried = np.unique(np.quantile(flat, above))
    return float(max(tried, key=lambda one: macro_f1(scores_NK, truth_NK, one)))


def main() -> None:
    """Measure, and print a table for the drawings and one for the stamps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="drawings that were fetched, or where to")
    parser.add_argument("--stamps", type=Path, help="Tux Paint's stamps (tuxpaint-stamps-default)")
    options = parser.parse_args()
    artifact = open_artifact(default_artifact())
    model = Model(artifact)
    measure = Measure(model, LabelEncoder(artifact, "cpu"), artifact.manifest.logit_scale)
    if options.cache:
        print(measure.table(list(of_drawings(model, options.cache))))
    if options.stamps:
        print(measure.table(list(of_stamps(model, options.stamps))))


if __name__ == "__main__":
    main()
