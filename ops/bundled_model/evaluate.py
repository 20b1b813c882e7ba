"""Measure the bundled model: python ops/bundled_model/evaluate.py --stamps DIR.

Everything goes through the product's own decoder, TorchScript tower and label encoder. Prints JSON.

Shapes: N images, K labels, D embedding dimensions.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import augment
import drawings
import numpy as np
import numpy.typing as npt
import stamps
import torch
from drawings import CATEGORIES
from PIL import Image

from worker.artifact.manifest import Artifact, default_artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine
from worker.export.reprecision import reprecision
from worker.images.decode import decode
from worker.labels.encoder import LabelEncoder
from worker.model.precision import supported

# No seed of the training run comes near: that uses small ones.
SEED: Final = 1_000_003
SCENE_SIZE: Final = 192
BATCH: Final = 32
TOP: Final = 5
EXAMPLES: Final = Path(__file__).resolve().parents[1] / "examples"

Rows = npt.NDArray[np.float32]
Hits = npt.NDArray[np.bool_]


class Model:
    """An artifact as a worker holds it, in its precision."""

    def __init__(self, artifact: Artifact) -> None:
        self.precision = artifact.manifest.precision
        self._artifact = artifact
        self._engine = TorchScriptEngine.load(artifact, "cpu")
        self._encoder = LabelEncoder(artifact, "cpu")
        own = self._encoder.encode(LabelPack())
        self.labels, self._own_KD = own.labels, own.matrix_KD

    def embed(self, files: Iterable[bytes]) -> Rows:
        """Return unit embeddings, ND."""
        spec, rows = self._artifact.manifest.preprocessing, []
        todo = iter(files)
        while some := list(islice(todo, BATCH)):
            pixels = [decode(file, spec, max_pixels=10**8, fast=False) for file in some]
            rows.append(infer(self._engine, pixels))
        return np.concatenate(rows)

    def embed_words(self, labels: Sequence[str]) -> Rows:
        """Return the embeddings of words, KD."""
        # One by one: two words for one thing are refused in a set.
        rows = {
            word: self._encoder.encode(LabelPack(labels=(word,))).matrix_KD[0]
            for word in dict.fromkeys(labels)
        }
        return np.stack([rows[word] for word in labels])

    def named(self, rows_ND: Rows, names: Sequence[Sequence[str]], top: int) -> Hits:
        """Return for each image whether one of its names is among its first own labels."""
        best_NT = np.argsort(-(rows_ND @ self._own_KD.T), axis=1)[:, :top]
        flat = [name for some in names for name in some]
        known = dict(zip(flat, _concepts(self.embed_words(flat)), strict=True))
        own_K = _concepts(self._own_KD)
        return np.array(
            [
                bool({known[name] for name in some} & set(own_K[best_T].tolist()))
                for some, best_T in zip(names, best_NT, strict=True)
            ]
        )

    def tells_category(self, rows_ND: Rows, right: Sequence[Sequence[str]]) -> Hits:
        """Return for each image whether the best of the six categories is right."""
        best_N = (rows_ND @ self.embed_words(CATEGORIES).T).argmax(axis=1)
        return np.array([CATEGORIES[k] in some for k, some in zip(best_N, right, strict=True)])


def _concepts(rows_KD: Rows) -> npt.NDArray[np.intp]:
    concepts_K: npt.NDArray[np.intp] = rows_KD.argmax(axis=1)
    return concepts_K


def on_stamps(model: Model, folder: Path) -> dict[str, object]:
    """Measure on Tux Paint's photographic stamps."""
    known = stamps.read(folder)
    grounds: dict[str, list[bytes]] = defaultdict(list)
    for stamp in known:
        for name, file in stamps.on_grounds(stamp):
            grounds[name].append(file)
    kinds: dict[str, list[bool]] = defaultdict(list)
    found: dict[str, object] = {}
    for name, files in grounds.items():
        rows_ND = model.embed(files)
        some = [n for n, one in enumerate(known) if one.categories]
        hits = model.tells_category(rows_ND[some], [known[n].categories for n in some])
        for n, hit in zip(some, hits, strict=True):
            kinds[known[n].categories[0]].append(bool(hit))
        named = [n for n, one in enumerate(known) if one.names]
        names = model.named(rows_ND[named], [known[n].names for n in named], TOP)
        firsts = model.named(rows_ND[named], [known[n].names for n in named], 1)
        found[name] = {
            "six categories": _share(hits),
            "name in the first five": _share(names),
            "name first": _share(firsts),
        }
    return {
        "stamps with a category": sum(bool(one.categories) for one in known),
        "stamps with a name": sum(bool(one.names) for one in known),
        "six categories": _share([hit for hits in kinds.values() for hit in hits]),
        "each category": {name: _share(hits) for name, hits in kinds.items()},
        "name in the first five": _mean(found, "name in the first five"),
        "name first": _mean(found, "name first"),
        "by ground": found,
    }


def _mean(found: dict[str, object], key: str) -> float:
    return round(float(np.mean([one[key] for one in found.values() if isinstance(one, dict)])), 4)


def _share(hits: Iterable[bool]) -> float:
    return round(float(np.mean(list(hits))), 4)


def on_drawings(model: Model, cache: Path) -> dict[str, object]:
    """Measure on new renderings of the training drawings, and on a design never trained on."""
    things = drawings.read_objects()
    hits: dict[str, list[bool]] = defaultdict(list)
    for design in drawings.TRAINING_DESIGNS:
        drawn = drawings.load(design, cache)
        names = [(things[n].name,) for n in drawn.object_ids]
        for kind, strength in (("new", augment.EVALUATION), ("hard", augment.TRAINING)):
            rows_ND = model.embed(scenes(drawn, strength))
            hits[kind] += model.named(rows_ND, names, 1).tolist()
    drawn = drawings.load(drawings.HELD_OUT_DESIGN, cache)
    owners = [things[n] for n in drawn.object_ids]
    rows_ND = model.embed(_png(pixels) for pixels in drawn.pixels)
    some = [n for n, owner in enumerate(owners) if owner.category]
    kinds = model.tells_category(rows_ND[some], [(owners[n].category,) for n in some])
    return {
        "new renderings": _share(hits["new"]),
        "at full strength": _share(hits["hard"]),
        "renderings": len(hits["new"]),
        "held-out design, categories": _share(kinds),
        "held-out design, with a category": len(some),
        "held-out design, names": _share(model.named(rows_ND, [(o.name,) for o in owners], 1)),
    }


def scenes(
    design: drawings.Drawings, strength: augment.Strength, seed: int = SEED
) -> Iterator[bytes]:
    """Yield one new scene of each drawing, as image files."""
    dice = torch.Generator().manual_seed(seed)
    rgba = torch.from_numpy(design.pixels).permute(0, 3, 1, 2)
    for start in range(0, len(rgba), BATCH):
        for image in augment.scenes(rgba[start : start + BATCH], SCENE_SIZE, strength, dice):
            yield _png((image * 255).byte().permute(1, 2, 0).numpy())


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def on_examples(model: Model) -> dict[str, object]:
    """Say which of the example files are named right, first."""
    files = sorted(path for path in EXAMPLES.iterdir() if path.suffix != ".md")
    hits = model.named(
        model.embed(path.read_bytes() for path in files), [(path.stem,) for path in files], 1
    )
    wrong = [path.name for path, hit in zip(files, hits, strict=True) if not hit]
    return {"examples": len(files), "right": int(hits.sum()), "wrong": wrong}


def figures(model: Model, options: argparse.Namespace, *, short: bool = False) -> dict[str, object]:
    """Measure everything that was asked for; in short, without the drawings."""
    found: dict[str, object] = {"examples": on_examples(model)}
    if options.stamps:
        found["stamps"] = on_stamps(model, options.stamps)
    if options.cache and not short:
        found["drawings"] = on_drawings(model, options.cache)
    return found


def main() -> None:
    """Measure the artifact and, if asked for, what other precisions make of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, help="Tux Paint's stamps (tuxpaint-stamps-default)")
    parser.add_argument("--cache", type=Path, help="drawings that were fetched, or where to")
    parser.add_argument("--model", type=Path, default=default_artifact())
    parser.add_argument("--precisions", action="store_true", help="the others too")
    options = parser.parse_args()
    artifact, cpu = open_artifact(options.model), torch.device("cpu")
    found: dict[str, object] = {artifact.manifest.precision: figures(Model(artifact), options)}
    with tempfile.TemporaryDirectory() as directory:
        for precision in supported(cpu) if options.precisions else ():
            if precision != artifact.manifest.precision:
                other = reprecision(artifact, precision, Path(directory) / precision, cpu)
                measured = {"parity": other.manifest.parity, "speed": other.manifest.speed}
                found[precision] = measured | figures(Model(other), options, short=True)
    print(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
