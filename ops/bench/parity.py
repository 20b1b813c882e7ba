"""Compare artifacts with transformers, fed by its own processors and tokenizers: a table.

    python ops/bench/parity.py [--full | --trained] [--engine exported] [--json FILE] [FAMILY ...]

A model of each family is made with random weights, tiny or, with --full, of the size that people
use, or tiny and trained for a few seconds; exported; and given odd texts and pictures, as is
transformers' model by way of its own processor. Printed are the largest differences: of embeddings
of length 1 or of logits, in float32, and of scores with those of transformers' own pipeline. With
--engine exported both towers are exported programs, and the artifact holds no TorchScript.

Shapes: N pictures or texts, D embedding dimensions, K labels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import hub_models
import numpy as np
import numpy.typing as npt
import torch
from more_families import MORE, save_more
from PIL import Image
from tables import hand_over, markdown
from trained import train
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    pipeline,
)

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.contract.settings import Settings
from worker.engines.choose import open_engine
from worker.engines.infer import infer
from worker.export.on_first_use import export_to
from worker.export.synthetic import picture
from worker.images.decode import decode
from worker.labels.encoder import encoder_of
from worker.labels.text_tower import TextEmbedder
from worker.pipeline.rank import rank

Rows = npt.NDArray[np.float32]

FAMILIES: Final = (*hub_models.FAMILIES, *MORE)
TEXTS: Final = (
    *("猫", "a photo of a cat", "A PHOTO, of a DOG!", "红色的苹果 and a red apple", "x"),
    *("🎉 生日快乐 🎂", "ＡＢＣ　１２３", "naïve Zürich", "  two  blanks  ", "?", "-"),
    "一只猫坐在红色的椅子上 beside a dog, " * 20,
)
# Width, height and mode of pictures: of no model's shape, and hardly more than a line.
_PICTURES: Final = ((640, 427, "RGB"), (333, 501, "L"), (211, 60, "P"), (97, 401, "RGBA"))
_TEMPLATE: Final = "a photo of {}"


class Differences(NamedTuple):
    """The largest ones; texts are None for a classifier."""

    images: float
    texts: float | None
    scores: float


def save(directory: Path, family: str, *, full: bool = False) -> Path:
    """Write a model of the family to `directory`."""
    if family in MORE:
        return save_more(directory, family, full=full)
    return hub_models.save(directory, family, full=full)


def export(directory: Path, out: Path, engine: str = "torchscript") -> Artifact:
    """Export it in float32, for one engine."""
    settings = Settings(model=str(directory), precision="fp32", device="cpu")
    return open_artifact(export_to(out, settings, None, lambda _: None, (engine,)))


def pictures(directory: Path) -> list[Path]:
    """Write the pictures as PNG: exact, so that all decode the same."""
    files = []
    for seed, (width, height, mode) in enumerate(_PICTURES):
        image = picture((width, height), seed)
        if mode == "RGBA":
            # White where it is not seen: transformers shows what lies there, workers white.
            image.putalpha(255)
            image.paste((255, 255, 255, 0), (0, 0, width // 2, height // 2))
        files.append(directory / f"{mode}.png")
        (image if mode == "RGBA" else image.convert(mode)).save(files[-1])
    return files


def compare(directory: Path, artifact: Artifact, files: list[Path]) -> Differences:
    """Return how far an artifact is from the model of the directory."""
    ours_ND = _image_rows(artifact, files)
    is_classifier = artifact.manifest.kind == "classifier"
    wanted_ND = _own_image_rows(directory, files, is_classifier=is_classifier)
    texts = None if is_classifier else _text_difference(directory, artifact)
    scores = _score_difference(directory, artifact, files, ours_ND)
    return Differences(float(np.abs(ours_ND - wanted_ND).max()), texts, scores)


def _image_rows(artifact: Artifact, files: list[Path]) -> Rows:
    spec = artifact.manifest.preprocessing
    images = [decode(file.read_bytes(), spec, max_pixels=10**8) for file in files]
    return infer(open_engine(artifact, Settings(device="cpu")), images)


def _own_image_rows(directory: Path, files: list[Path], *, is_classifier: bool) -> Rows:
    processor = AutoImageProcessor.from_pretrained(directory)
    values = [
        processor(images=Image.open(file).convert("RGB"), return_tensors="pt") for file in files
    ]
    with torch.no_grad():
        if is_classifier:
            model = AutoModelForImageClassification.from_pretrained(directory).eval()
            logits_NK: Rows = torch.cat([model(**one).logits for one in values]).numpy()
            return logits_NK
        model = AutoModel.from_pretrained(directory).eval()
        return _unit([model.get_image_features(**one) for one in values])


def _text_difference(directory: Path, artifact: Artifact) -> float:
    processor = AutoProcessor.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory).eval()
    length = artifact.manifest.max_text_tokens
    padding = "max_length" if model.config.model_type == "siglip" else True
    tokens = processor(
        text=list(TEXTS), padding=padding, truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.no_grad():
        wanted_ND = _unit([model.get_text_features(**tokens)])
    return float(np.abs(TextEmbedder(artifact, "cpu").embed(TEXTS) - wanted_ND).max())


def _unit(features: list[Any]) -> Rows:
    rows_ND = torch.cat([getattr(one, "pooler_output", one) for one in features])
    found: Rows = torch.nn.functional.normalize(rows_ND, dim=-1).numpy()
    return found


def _score_difference(
    directory: Path, artifact: Artifact, files: list[Path], rows_ND: Rows
) -> float:
    """Return the largest difference of a score from that of transformers' own pipeline."""
    is_classifier = artifact.manifest.kind == "classifier"
    pack = LabelPack() if is_classifier else LabelPack(hub_models.LABELS, (_TEMPLATE,))
    label_set = encoder_of(artifact, "cpu").encode(pack)
    count = len(label_set.labels)
    ours = rank(rows_ND, label_set, artifact.manifest.scale, top_k=count, threshold=0.0)
    theirs = _classified(directory, files) if is_classifier else _zero_shot(directory, files)
    return max(
        abs(tag.score - scores[tag.label])
        for tags, scores in zip(ours, theirs, strict=True)
        for tag in tags
        if tag.label in scores
    )


def _classified(directory: Path, files: list[Path]) -> list[dict[str, float]]:
    """Return a classifier's scores by label. Its pipeline cannot name classes numbered from 1."""
    model = AutoModelForImageClassification.from_pretrained(directory).eval()
    names = [model.config.id2label[k] for k in sorted(model.config.id2label)]
    model.config.id2label = dict(enumerate(names))
    processor = AutoImageProcessor.from_pretrained(directory)
    run = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    found = [run(str(file), top_k=len(names)) for file in files]
    # Of two classes of one name it is not known which is which.
    return [
        {one["label"]: one["score"] for one in each if names.count(one["label"]) == 1}
        for each in found
    ]


def _zero_shot(directory: Path, files: list[Path]) -> list[dict[str, float]]:
    processor = AutoProcessor.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory).eval()
    run = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
        device="cpu",
    )
    return [
        {
            one["label"]: one["score"]
            for one in run(
                str(file),
                candidate_labels=list(hub_models.LABELS),
                hypothesis_template=_TEMPLATE,
            )
        }
        for file in files
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("families", nargs="*", default=FAMILIES, metavar="FAMILY")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="of the size that people use")
    size.add_argument("--trained", action="store_true", help="tiny, with trained weights")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--engine", choices=("torchscript", "exported"), default="torchscript")
    options = parser.parse_args()
    rows = [_row(family, options) for family in options.families]
    cells = [[row["family"], *(_cell(row[name]) for name in Differences._fields)] for row in rows]
    hand_over({"families": rows}, options.json, markdown(["family", *Differences._fields], cells))


def _row(family: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the largest differences of a family."""
    with tempfile.TemporaryDirectory() as place:
        directory = save(Path(place) / family, family, full=options.full)
        accuracy = {"trained_top1": train(directory)} if options.trained else {}
        artifact = export(directory, Path(place) / "artifact", options.engine)
        found = compare(directory, artifact, pictures(Path(place)))
    row = {"family": family, **found._asdict(), **accuracy}
    print(row, file=sys.stderr, flush=True)
    return row


def _cell(difference: float | None) -> str:
    return "-" if difference is None else f"{difference:.1e}"


if __name__ == "__main__":
    main()
