"""The model that ships, and the examples beside it."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT
from PIL import Image

from worker.artifact.manifest import (
    IMAGE_TOWER,
    TEXT_TOWER,
    default_artifact,
    open_artifact,
)
from worker.contract.labels import LabelPack
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine
from worker.images.decode import decode
from worker.labels.encoder import LabelEncoder
from worker.labels.label_sets import LabelSet
from worker.labels.own_labels import own_pack
from worker.pipeline.rank import rank

CATEGORIES = ("动物", "植物", "交通工具", "电子产品", "食物", "自然景观")
EXAMPLES = sorted(path for path in (ROOT / "ops/examples").iterdir() if path.suffix != ".md")
MOST_BYTES = 12e6


@pytest.fixture(scope="module")
def encoder() -> LabelEncoder:
    return LabelEncoder(open_artifact(), "cpu")


@pytest.fixture(scope="module")
def own(encoder: LabelEncoder) -> LabelSet:
    return encoder.encode(LabelPack())


@pytest.fixture(scope="module")
def embeddings() -> npt.NDArray[np.float32]:
    artifact = open_artifact()
    pixels = [
        decode(p.read_bytes(), artifact.manifest.preprocessing, max_pixels=10**8, fast=True)
        for p in EXAMPLES
    ]
    return infer(TorchScriptEngine.load(artifact, "cpu"), pixels)


def test_no_file_of_it_is_large_and_it_agrees_with_its_original() -> None:
    artifact = open_artifact()
    files = [path for path in default_artifact().rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= MOST_BYTES
    parity = artifact.manifest.parity
    assert parity["image_max_abs"] <= 1e-4
    assert parity["image_min_cosine"] >= 0.99999
    assert artifact.manifest.lexicon


def test_it_names_no_folder_of_the_machine_that_it_was_made_on() -> None:
    for name in (IMAGE_TOWER, TEXT_TOWER):
        with ZipFile(default_artifact() / name) as file:
            bodies = [file.read(one) for one in file.namelist()]
        assert len(bodies) > 1
        assert not [body for body in bodies if b"site-packages" in body or b"/worker/" in body]


def test_it_names_more_than_a_thousand_things_each_in_its_own_place(own: LabelSet) -> None:
    assert len(own.labels) >= 1300
    assert len(np.unique(own.matrix_KD.argmax(axis=1))) == len(own.labels)


def test_every_label_has_a_kind_that_it_knows(encoder: LabelEncoder) -> None:
    pack = own_pack(open_artifact())
    kinds = tuple(dict.fromkeys(pack.parents.values()))
    assert len(kinds) >= 120
    assert len(pack.parents) >= 1200
    assert not encoder.check(LabelPack(labels=kinds)).refusals


def test_its_kinds_are_told_where_no_label_is_certain(encoder: LabelEncoder, own: LabelSet) -> None:
    assert own.kinds is not None
    assert len(own.kinds.names) >= 110
    apart = dict(zip(own.labels, own.kinds.apart_KM[:, own.kinds.names.index("动物")], strict=True))
    assert (apart["虎斑猫"], apart["猫"], apart["汽车"]) == (0, 0, 1)
    scale = open_artifact().manifest.scale
    # As likely one as the other: no cat, and an animal all the same.
    texts = ("虎斑猫", "金毛寻回犬", "动物")
    row_D = encoder.encode(LabelPack(texts)).matrix_KD.sum(axis=0) * np.float32(0.05)
    (tags,) = rank(row_D[np.newaxis], own, scale, top_k=2, threshold=0)
    assert {tag.label for tag in tags[:2]} == {"虎斑猫", "金毛寻回犬"}
    assert [(tag.label, tag.parent) for tag in tags[2:]] == [("动物", None)]


def test_the_six_categories_are_words_of_their_own(encoder: LabelEncoder) -> None:
    matrix_KD = encoder.encode(LabelPack(labels=CATEGORIES)).matrix_KD
    np.testing.assert_array_equal(matrix_KD @ matrix_KD.T, np.eye(6, dtype=np.float32))


def test_the_examples_are_two_dozen_of_many_kinds_and_some_of_camera_size() -> None:
    sizes = {}
    for path in EXAMPLES:
        with Image.open(path) as image:
            sizes[path] = image.size
    assert len(sizes) >= 24
    assert {path.suffix for path in sizes} >= {".jpg", ".png", ".webp", ".gif", ".bmp", ".tif"}
    assert sum(width * height >= 12_000_000 for width, height in sizes.values()) >= 3
    assert sum(path.stat().st_size for path in sizes) < 6e6


def test_the_examples_are_named_after_what_the_model_sees(
    embeddings: npt.NDArray[np.float32], encoder: LabelEncoder, own: LabelSet
) -> None:
    names = [Path(path).stem for path in EXAMPLES]
    right_N = encoder.encode(LabelPack(labels=tuple(names))).matrix_KD.argmax(axis=1)
    best_N = own.matrix_KD.argmax(axis=1)[(embeddings @ own.matrix_KD.T).argmax(axis=1)]
    wrong = [
        name for name, right, best in zip(names, right_N, best_N, strict=True) if right != best
    ]
    assert wrong == []


def test_a_row_is_of_length_one_and_holds_probabilities_that_add_up(
    embeddings: npt.NDArray[np.float32], encoder: LabelEncoder
) -> None:
    scale = open_artifact().manifest.logit_scale
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    cat = EXAMPLES.index(next(path for path in EXAMPLES if path.stem == "猫"))
    pair_KD = encoder.encode(LabelPack(labels=("猫", "汽车"))).matrix_KD
    logits = scale * (pair_KD @ embeddings[cat])
    assert logits[0] - logits[1] > np.log(10)


def test_calibrated_kinds_do_not_compete_with_what_belongs_to_them(encoder: LabelEncoder) -> None:
    pack = LabelPack(labels=("动物", "猫", "虎斑猫"), calibrated=True)
    background = encoder.encode(pack).background
    assert background is not None
    own = own_pack(open_artifact()).labels
    apart = {
        (word, label): bool(background.apart_JK[own.index(word), k])
        for word in ("虎斑猫", "猫", "老虎", "汽车")
        for k, label in enumerate(pack.labels)
        if word in own
    }
    assert not apart["虎斑猫", "动物"]
    assert not apart["虎斑猫", "猫"]
    assert not apart["猫", "虎斑猫"]
    assert not apart["老虎", "动物"]
    assert apart["老虎", "猫"]


@pytest.mark.parametrize(
    "word", ["猫", "猫咪", "Golden Retriever", "这是一张猫的照片", "cat", "ｃａｔ"]
)
def test_words_are_found_in_other_spellings_and_in_its_own_prompt(
    word: str, encoder: LabelEncoder
) -> None:
    assert not encoder.check(LabelPack(labels=(word, "火山"))).refusals


def test_a_prompt_of_ones_own_changes_nothing(encoder: LabelEncoder) -> None:
    plain = encoder.encode(LabelPack(labels=("猫", "狗")))
    prompted = encoder.encode(LabelPack(labels=("猫", "狗"), templates=("一幅{}的油画",)))
    np.testing.assert_array_equal(plain.matrix_KD, prompted.matrix_KD)


def test_a_word_that_it_does_not_know_is_refused_with_the_nearest_that_it_does(
    encoder: LabelEncoder,
) -> None:
    (sentence,) = encoder.check(LabelPack(labels=("猫", "波斯猫咪"))).refusals
    assert "波斯猫咪 (波斯猫" in sentence.english
    (sentence,) = encoder.check(LabelPack(labels=("猫", "🐱"))).refusals
    assert "none of them: 🐱" in sentence.english
