"""worker.models.export"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPTextConfig,
    ChineseCLIPVisionConfig,
)

from worker.contract.labels import LabelPack
from worker.engines.torchscript import TorchScriptEngine
from worker.errors import ArtifactError
from worker.infer import infer
from worker.models.artifact import Preprocessing, Source, open_artifact
from worker.models.export import Recipe, export_zero_shot
from worker.models.labels import LabelEncoder

LABELS = ("猫", "狗", "苹果")


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "name": "tiny",
        "source": Source(id="here"),
        "preprocessing": Preprocessing(height=32, width=32),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "max_text_tokens": 16,
        "template": "这是一张{}的照片",
        "labels": LABELS,
    }
    return Recipe(**fields | changes)


@pytest.fixture(scope="module")
def model() -> Any:
    """A Chinese-CLIP as transformers builds it, with random weights."""
    torch.manual_seed(0)
    text = ChineseCLIPTextConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    vision = ChineseCLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    config = ChineseCLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16
    )
    return ChineseCLIPModel(config).eval()


def tokenizer(characters: str = "这是一张的照片猫狗苹果") -> Any:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def test_embeddings_are_those_of_transformers(model: Any, tmp_path: Path) -> None:
    export_zero_shot(model, tokenizer(), recipe(), tmp_path / "out")
    artifact = open_artifact(tmp_path / "out")
    dice = np.random.default_rng(0)
    pixels = [dice.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(3)]
    found = infer(TorchScriptEngine.load(artifact, "cpu"), pixels)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    values = torch.from_numpy(np.stack(pixels)).float() / 255
    with torch.no_grad():
        scaled = (values - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        pooled = model.vision_model(pixel_values=scaled).pooler_output
        expected = torch.nn.functional.normalize(model.visual_projection(pooled), dim=-1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_labels_are_embedded_as_transformers_does(model: Any, tmp_path: Path) -> None:
    words = tokenizer()
    export_zero_shot(model, words, recipe(), tmp_path / "out")
    found = LabelEncoder(open_artifact(tmp_path / "out"), "cpu").encode(LabelPack())
    tokens = words(
        [f"这是一张{label}的照片" for label in LABELS], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"])[0]
        projected = model.text_projection(states[:, 0])
    expected = torch.nn.functional.normalize(projected, dim=-1)
    assert found.labels == LABELS
    np.testing.assert_allclose(found.matrix_KD, expected.numpy(), atol=1e-5)


def test_the_manifest_says_what_was_exported(model: Any, tmp_path: Path) -> None:
    export_zero_shot(model, tokenizer(), recipe(notice="small"), tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert manifest["embedding_dim"] == 16
    assert manifest["labels"] == "labels.txt"
    assert manifest["notice"] == "small"
    assert manifest["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert max(manifest["parity"].values()) <= 1e-4
    present = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.*")}
    assert set(manifest["files"]) == present - {"manifest.json"}


def test_labels_that_collapse_to_the_same_tokens_are_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="3 labels give only 2"):
        export_zero_shot(model, tokenizer("这是一张的照片"), recipe(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_replaced_only_by_a_whole_one(model: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_zero_shot(model, tokenizer(), recipe(), out)
    before = open_artifact(out).id
    wrong = recipe(preprocessing=Preprocessing(height=48, width=48))
    with pytest.raises(ValueError, match="32"):
        export_zero_shot(model, tokenizer(), wrong, out)
    assert open_artifact(out).id == before
    export_zero_shot(model, tokenizer(), recipe(name="other"), out)
    assert open_artifact(out).id.startswith("other@")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
