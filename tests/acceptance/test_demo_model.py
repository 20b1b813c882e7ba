"""The model that ships, and the examples beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from worker.artifact.manifest import default_artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine
from worker.images.decode import decode
from worker.labels.encoder import LabelEncoder, LabelSet, own_pack

CATEGORIES = ("动物", "植物", "交通工具", "电子产品", "食物", "自然景观")
EXAMPLES = sorted(path for path in (ROOT / "ops/examples").iterdir() if path.suffix != ".md")


@pytest.fixture(scope="module")
def objects() -> LabelSet:
    return LabelEncoder(open_artifact(), "cpu").encode(LabelPack())


def test_it_is_small_whole_and_known_as_a_demonstration() -> None:
    artifact = open_artifact()
    files = [path for path in default_artifact().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    parity = artifact.manifest.parity
    assert max(parity["image_max_abs"], parity["text_max_abs"]) <= 1e-4
    assert parity["image_min_cosine"] >= 0.99999
    assert "demonstration" in (artifact.manifest.notice or "")


def test_it_names_several_hundred_objects_each_in_its_own_place(objects: LabelSet) -> None:
    assert len(objects.labels) >= 300
    alike = objects.matrix_KD @ objects.matrix_KD.T - 2 * np.eye(len(objects.labels))
    assert alike.max() < 0.999


def test_its_labels_are_those_of_the_training_list() -> None:
    lines = (ROOT / "ops/demo_model/objects.tsv").read_text(encoding="utf-8").splitlines()
    names = tuple(line.split("\t")[1] for line in lines if not line.startswith("#"))
    assert own_pack(open_artifact()).labels == names


def test_the_six_categories_are_told_apart() -> None:
    matrix = LabelEncoder(open_artifact(), "cpu").encode(LabelPack(labels=CATEGORIES)).matrix_KD
    assert (matrix @ matrix.T - 2 * np.eye(6)).max() < 0.9


def test_the_examples_are_two_dozen_of_many_kinds_and_some_of_camera_size() -> None:
    sizes = {}
    for path in EXAMPLES:
        with Image.open(path) as image:
            sizes[path] = image.size
    assert len(sizes) >= 24
    assert {path.suffix for path in sizes} >= {".jpg", ".png", ".webp", ".gif", ".bmp", ".tif"}
    assert sum(width * height >= 12_000_000 for width, height in sizes.values()) >= 3
    assert sum(path.stat().st_size for path in sizes) < 6e6


def test_most_examples_are_named_after_what_the_model_sees(objects: LabelSet) -> None:
    artifact = open_artifact()
    pixels = [
        decode(p.read_bytes(), artifact.manifest.preprocessing, max_pixels=10**8, fast=False)
        for p in EXAMPLES
    ]
    rows = infer(TorchScriptEngine.load(artifact, "cpu"), pixels)
    best = (rows @ objects.matrix_KD.T).argmax(axis=1)
    right = [objects.labels[k] == Path(p).stem for k, p in zip(best, EXAMPLES, strict=True)]
    assert sum(right) >= len(EXAMPLES) * 0.6
