"""Models of the size that people use agree with transformers; their weights are random."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import HEAVY, LONG, Fleet
from hub_models import FAMILIES, LABELS, save
from images import encoded, picture
from PIL import Image
from side_by_side import compare, gather, tags
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoTokenizer,
    pipeline,
)

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.settings import Settings
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine
from worker.errors import ExportError
from worker.export.on_first_use import export_to
from worker.export.reprecision import reprecision
from worker.images.decode import decode
from worker.labels.encoder import encoder_of
from worker.model.int8.products import adds_in_32_bits
from worker.model.precision import supported

pytestmark = [pytest.mark.integration, HEAVY]
SIZES = ((1600, 1200), (640, 480), (480, 640), (224, 224), (200, 120))
CPU = torch.device("cpu")
Rows = npt.NDArray[np.float32]


class Model(NamedTuple):
    """A model in transformers' form and as an fp32 artifact, with what transformers says of files.

    `pixels` are what its image processor makes of them, in grey levels, NCHW.
    """

    directory: Path
    artifact: Artifact
    files: list[Path]
    pixels: npt.NDArray[np.float64]
    rows: Rows
    texts: Rows | None


@pytest.fixture
def queue() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


# Their towers are of the same make as the others'; tiny models of all four are exported each time.
LATER = ("clip", "siglip", "vit")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gather(tmp_path_factory.mktemp("photos"), examples=False)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    if request.param in LATER and "FULL_SIZE" not in os.environ:
        pytest.skip("one family is enough each time; FULL_SIZE=1 compares all four")
    root = tmp_path_factory.mktemp(request.param)
    directory = save(root / request.param, request.param, full=True)
    settings = Settings(model=str(directory), precision="fp32", device="cpu")
    artifact = open_artifact(export_to(root / "artifact", settings, None, lambda _: None))
    files = [root / f"{width}x{height}.jpg" for width, height in SIZES]
    for number, (file, size) in enumerate(zip(files, SIZES, strict=True)):
        file.write_bytes(encoded(picture(5 * number + 3, size)))
    yield Model(directory, artifact, files, *_transformers(directory, artifact, files))
    shutil.rmtree(root)


def _transformers(
    directory: Path, artifact: Artifact, files: list[Path]
) -> tuple[npt.NDArray[np.float64], Rows, Rows | None]:
    processor = AutoImageProcessor.from_pretrained(directory)
    images = [Image.open(file).convert("RGB") for file in files]
    values = processor(images=images, return_tensors="pt")["pixel_values"]
    spec = artifact.manifest.preprocessing
    mean, std = (np.array(one).reshape(3, 1, 1) for one in (spec.mean, spec.std))
    levels = (values.double().numpy() * std + mean) * 255
    with torch.no_grad():
        if artifact.manifest.kind == "classifier":
            classifier = AutoModelForImageClassification.from_pretrained(directory)
            return levels, classifier(values).logits.numpy(), None
        dual = AutoModel.from_pretrained(directory)
        rows = _unit(dual.get_image_features(pixel_values=values))
        tokens = AutoTokenizer.from_pretrained(directory)(
            [artifact.manifest.template.format(label) for label in LABELS],
            padding="max_length",
            max_length=artifact.manifest.max_text_tokens,
            return_tensors="pt",
        )
        kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return levels, rows, _unit(dual.get_text_features(**kept))


def _unit(features: Any) -> Rows:
    rows: Rows = torch.nn.functional.normalize(features.pooler_output, dim=-1).numpy()
    return rows


def embed(model: Model, artifact: Artifact) -> Rows:
    spec = artifact.manifest.preprocessing
    images = [decode(file.read_bytes(), spec, max_pixels=10**8) for file in model.files]
    return infer(TorchScriptEngine.load(artifact, "cpu"), images)


def worst_cosine(left: Rows, right: Rows) -> float:
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


def test_exact_decoding_is_the_image_processor(model: Model) -> None:
    spec = model.artifact.manifest.preprocessing
    for file, wanted in zip(model.files, model.pixels, strict=True):
        found = decode(file.read_bytes(), spec, max_pixels=10**8)
        assert np.abs(found - wanted).max() < 0.01, file.name


def test_fp32_is_the_model_itself(model: Model) -> None:
    found = embed(model, model.artifact)
    # Towers differ by rounding alone.
    assert worst_cosine(found, model.rows) >= 0.99999
    assert np.abs(found - model.rows).max() <= 1e-3


def test_labels_are_embedded_as_transformers_does(model: Model) -> None:
    if model.texts is None:
        pytest.skip("a classifier has no texts")
    found = encoder_of(model.artifact, "cpu").encode(LabelPack(labels=LABELS)).matrix_KD
    assert np.abs(found - model.texts).max() <= 1e-5


def test_tags_are_those_of_transformers_own_pipeline(
    model: Model, queue: str, fleet: Fleet, photos: Path, tmp_path: Path
) -> None:
    if model.artifact.manifest.name != "chinese_clip":
        pytest.skip("once through the queue is enough: the rest is compared above")
    worker = fleet.start(queue, "--model", str(model.artifact.path), "--device", "cpu")
    ours = tags(queue, photos, tmp_path / "tags.jsonl", LABELS)
    worker.stop()
    zero_shot = pipeline("zero-shot-image-classification", model=str(model.directory), device="cpu")
    assert compare(ours, zero_shot, LABELS, model.artifact.manifest.template) >= 0.99


@LONG
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_stay_close(model: Model, precision: Any, tmp_path: Path) -> None:
    if precision not in supported(CPU):
        pytest.skip(f"this processor does not multiply {precision}")
    try:
        artifact = reprecision(model.artifact, precision, tmp_path / precision, CPU)
    except ExportError as e:
        if precision != "int8" or adds_in_32_bits():
            raise
        # With seven bits a model may be too far from itself: then it is refused, not shipped.
        assert "too far from the model" in str(e)  # noqa: PT017 - either outcome is right
        return
    assert worst_cosine(embed(model, artifact), model.rows) >= 0.999
    assert artifact.manifest.precision == precision
