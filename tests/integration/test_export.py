"""worker.export.export, and what it rests on: hub, recipe, rewrite, towers, precision, tracing."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hub_models import FAMILIES, LABELS, edit, save
from images import encoded, picture
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoTokenizer,
    BertTokenizer,
)

from worker.artifact.manifest import Artifact, Manifest, open_artifact
from worker.contract.labels import LabelPack
from worker.contract.settings import Settings
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine
from worker.errors import ArtifactError, DeviceError, ExportError, LabelsMissingError
from worker.export.on_first_use import export_to, open_model
from worker.images.decode import decode
from worker.labels.encoder import encoder_of
from worker.labels.text_tower import TextEmbedder

Rows = npt.NDArray[np.float32]
ZERO_SHOT = tuple(family for family in FAMILIES if family != "vit")
SIZES = ((640, 480), (360, 500), (97, 401), (48, 48))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Landscape, portrait, a strip, and one of the model's own size."""
    directory = tmp_path_factory.mktemp("photos")
    files = [directory / f"{width}x{height}.jpg" for width, height in SIZES]
    for number, (file, size) in enumerate(zip(files, SIZES, strict=True)):
        file.write_bytes(encoded(picture(5 * number + 3, size)))
    return files


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family, as the hub would hand it out."""
    root = tmp_path_factory.mktemp("hub")
    return {family: save(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def exported(hub: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Each of them in float32."""
    root = tmp_path_factory.mktemp("artifacts")
    for family, directory in hub.items():
        export(str(directory), root / family, precision="fp32")
    return {family: open_artifact(root / family) for family in hub}


def export(
    model: str, out: Path, precision: str = "fp32", device: str = "cpu", **options: Any
) -> Manifest:
    """Export as `worker export` does."""
    settings = Settings(model=model, precision=precision, device=device)  # type: ignore[arg-type]
    echo: Callable[[str], None] = options.get("echo", lambda _: None)
    return open_artifact(export_to(out, settings, None, echo)).manifest


@pytest.mark.parametrize("family", FAMILIES)
def test_fast_decoding_is_tried_and_reported(exported: dict[str, Artifact], family: str) -> None:
    manifest = exported[family].manifest
    mean, worst = (manifest.parity[f"fast_decode_{name}_cosine"] for name in ("mean", "min"))
    assert manifest.fast_decode == (mean >= 0.999 and worst >= 0.99)


def embed(artifact: Artifact, files: list[Path]) -> Rows:
    spec = artifact.manifest.preprocessing
    images = [decode(file.read_bytes(), spec, max_pixels=10**8) for file in files]
    return infer(TorchScriptEngine.load(artifact, "cpu"), images)


def transformers_images(directory: Path, files: list[Path]) -> Rows:
    """What transformers itself makes of the files: unit embeddings, or a classifier's logits."""
    processor = AutoImageProcessor.from_pretrained(directory)
    images = [Image.open(file).convert("RGB") for file in files]
    values = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        if directory.name == "vit":
            model = AutoModelForImageClassification.from_pretrained(directory)
            rows: Rows = model(values).logits.numpy()
            return rows
        features = AutoModel.from_pretrained(directory).get_image_features(pixel_values=values)
        return unit(features.pooler_output)


def transformers_texts(directory: Path, texts: list[str], length: int) -> Rows:
    model = AutoModel.from_pretrained(directory)
    tokens = AutoTokenizer.from_pretrained(directory)(
        texts,
        padding="max_length" if directory.name == "siglip" else True,
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return unit(model.get_text_features(**tokens).pooler_output)


def unit(rows: torch.Tensor) -> Rows:
    found: Rows = torch.nn.functional.normalize(rows, dim=-1).numpy()
    return found


def cosines(left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left64, axis=1) * np.linalg.norm(right64, axis=1)
    found: npt.NDArray[np.float64] = (left64 * right64).sum(1) / lengths
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_photographs_are_embedded_as_transformers_does(
    family: str, hub: dict[str, Path], exported: dict[str, Artifact], photos: list[Path]
) -> None:
    found = embed(exported[family], photos)
    wanted = transformers_images(hub[family], photos)
    assert cosines(found, wanted).min() >= 0.9999
    # Not a constant: the pictures differ, and so do what they become.
    assert np.abs(wanted[0] - wanted[1]).max() > 10 * np.abs(found - wanted).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_the_processor(
    family: str, hub: dict[str, Path], exported: dict[str, Artifact], photos: list[Path]
) -> None:
    spec = exported[family].manifest.preprocessing
    processor = AutoImageProcessor.from_pretrained(hub[family])
    std, mean = (np.array(v).reshape(3, 1, 1) for v in (spec.std, spec.mean))
    for file in photos:
        values = processor(images=Image.open(file), return_tensors="pt")["pixel_values"][0]
        theirs = (values.numpy() * std + mean) * 255
        ours = decode(file.read_bytes(), spec, max_pixels=10**8)
        assert np.abs(theirs - ours).max() < 0.01, file.name


@pytest.mark.parametrize("family", ZERO_SHOT)
def test_labels_are_embedded_as_transformers_does(
    family: str, hub: dict[str, Path], exported: dict[str, Artifact]
) -> None:
    artifact = exported[family]
    found = encoder_of(artifact, "cpu").encode(LabelPack(LABELS, ("这是一张{}的照片",)))
    texts = [f"这是一张{label}的照片" for label in LABELS]
    wanted = transformers_texts(hub[family], texts, artifact.manifest.max_text_tokens)
    assert found.labels == LABELS
    np.testing.assert_allclose(found.matrix_KD, wanted, atol=1e-5)


def test_the_manifest_says_where_the_model_comes_from_and_how_well_it_agrees(
    exported: dict[str, Artifact],
) -> None:
    manifest = exported["clip"].manifest
    assert manifest.source.id == manifest.name == "clip"
    assert re.fullmatch("sha256:[0-9a-f]{12}", manifest.source.revision or "")
    assert manifest.parity["image_min_cosine"] >= 0.99999
    assert manifest.parity["text_max_abs"] <= 1e-5
    assert set(manifest.speed) == {"batch_1_ms", "batch_4_ms"}
    assert manifest.preprocessing.resize == "shortest_edge"
    assert exported["chinese_clip"].manifest.template == "这是一张{}的照片"
    assert (manifest.embedding_dim, manifest.max_text_tokens) == (16, 24)


def test_a_classifier_tags_with_its_own_classes(
    hub: dict[str, Path], exported: dict[str, Artifact], photos: list[Path]
) -> None:
    artifact = exported["vit"]
    own = encoder_of(artifact, "cpu").encode(LabelPack())
    assert own.labels == ("猫", "狗", "鹤", "鹤 (3)", "物0", "物1")
    logits = embed(artifact, photos) @ own.matrix_KD.T
    np.testing.assert_allclose(logits, transformers_images(hub["vit"], photos), atol=1e-2)
    some = encoder_of(artifact, "cpu").encode(LabelPack(("物1", "猫")))
    np.testing.assert_array_equal(embed(artifact, photos) @ some.matrix_KD.T, logits[:, [5, 0]])


def test_a_class_that_the_classifier_does_not_know_is_named(exported: dict[str, Artifact]) -> None:
    with pytest.raises(LabelsMissingError, match="does not know '龙' and 1 more"):
        encoder_of(exported["vit"], "cpu").encode(LabelPack(("龙", "猫", "凤")))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("family", ["chinese_clip", "vit"])
def test_lower_precisions_stay_close(
    family: str, precision: Any, hub: dict[str, Path], photos: list[Path], tmp_path: Path
) -> None:
    manifest = export(str(hub[family]), tmp_path / "out", precision=precision)
    artifact = open_artifact(tmp_path / "out")
    assert manifest.precision == artifact.manifest.precision == precision
    found = embed(artifact, photos)
    assert found.dtype == np.float32
    assert cosines(found, transformers_images(hub[family], photos)).min() >= 0.998


def test_auto_takes_the_fastest_that_agrees(hub: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    manifest = export(str(hub["chinese_clip"]), tmp_path / "out", "auto", echo=said.append)
    assert any(line.startswith("fp32: cosine") for line in said)
    best = "fp32"
    for line in said:
        if turns := re.match(r"(\w+): ([\d.]+) times as fast as (\w+) \(", line):
            precision, times, other = turns.groups()
            assert other == best
            # What rounds to the bound may be on either side of it.
            if float(times) > 1.05 or (times == "1.05" and manifest.precision == precision):
                best = precision
    assert manifest.precision == best
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "image.pt",
        "manifest.json",
        "text.pt",
        "tokenizer",
        "transformers",
    ]


@pytest.mark.parametrize(
    ("family", "exact"), [("chinese_clip", True), ("clip", True), ("siglip", False)]
)
def test_texts_are_read_without_padding_only_where_that_changes_nothing(
    hub: dict[str, Path], exported: dict[str, Artifact], family: str, exact: bool
) -> None:
    embedder = TextEmbedder(exported[family], "cpu")
    texts = ["猫", "红苹果", "公共汽车"]
    length = exported[family].manifest.max_text_tokens
    wanted = transformers_texts(hub[family], texts, length)
    assert np.abs(embedder.embed(texts) - wanted).max() <= 1e-5
    assert embedder._trims is exact


def broken(hub: dict[str, Path], tmp_path: Path) -> Path:
    """Return a copy of a model, to be damaged."""
    return Path(shutil.copytree(hub["chinese_clip"], tmp_path / "model"))


def refused(model: Path | str, tmp_path: Path, **options: Any) -> str:
    """Return why the model is refused; nothing of an artifact may remain."""
    with pytest.raises(ExportError) as error:
        export(str(model), tmp_path / "artifacts" / "out", precision="fp32", **options)
    assert not list((tmp_path / "artifacts").glob("*"))
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def test_an_architecture_that_is_not_known_is_named(hub: dict[str, Path], tmp_path: Path) -> None:
    model = broken(hub, tmp_path)
    edit(model / "config.json", model_type="bert")
    assert "is a bert: only chinese_clip, clip, siglip, metaclip_2, altclip and image" in refused(
        model, tmp_path
    )
    edit(model / "config.json", model_type="never-heard-of")
    assert "of a type that this transformers does not know" in refused(model, tmp_path)


def test_a_model_without_weights_is_one_sentence(hub: dict[str, Path], tmp_path: Path) -> None:
    model = broken(hub, tmp_path)
    (model / "model.safetensors").unlink()
    assert "model 'model' holds no weights" in refused(model, tmp_path)


def test_a_directory_with_a_fifo_in_it_is_one_sentence(
    hub: dict[str, Path], tmp_path: Path
) -> None:
    model = broken(hub, tmp_path)
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    assert "config.json: it is a FIFO" in refused(model, tmp_path)


def test_weights_that_are_cut_off_are_one_sentence(hub: dict[str, Path], tmp_path: Path) -> None:
    model = broken(hub, tmp_path)
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors is only a part of the file" in refused(model, tmp_path)


def test_weights_that_lack_a_part_are_refused(hub: dict[str, Path], tmp_path: Path) -> None:
    model = broken(hub, tmp_path)
    weights = load_file(model / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "lack 1 that the model needs: visual_projection.weight" in refused(model, tmp_path)


def test_a_missing_tokenizer_is_named(hub: dict[str, Path], tmp_path: Path) -> None:
    model = broken(hub, tmp_path)
    for file in [*model.glob("tokenizer*"), *model.glob("vocab*")]:
        file.unlink()
    assert "'model' comes without a tokenizer" in refused(model, tmp_path)


def test_a_tokenizer_that_lost_its_vocabulary_is_refused(
    hub: dict[str, Path], tmp_path: Path
) -> None:
    model = broken(hub, tmp_path)
    (model / "tokenizer.json").unlink()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    BertTokenizer(vocab={token: n for n, token in enumerate(special)}).save_pretrained(model)
    assert "different rows of tokens" in refused(model, tmp_path)


def test_a_processor_that_does_something_else_is_refused(
    hub: dict[str, Path], tmp_path: Path
) -> None:
    model = broken(hub, tmp_path)
    edit(model / "preprocessor_config.json", rescale_factor=1 / 127.5)
    assert "scales by 0.00784314, not by 1/255" in refused(model, tmp_path)
    edit(model / "preprocessor_config.json", rescale_factor=1 / 255, do_resize=False)
    assert "does not resize" in refused(model, tmp_path)


def test_without_a_network_an_id_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sentence = refused("someone/some-model-that-is-nowhere", tmp_path)
    assert "'someone/some-model-that-is-nowhere' is no directory here" in sentence


def test_a_name_that_no_hub_could_have_is_one_sentence(tmp_path: Path) -> None:
    assert "there is no model at /no/such/place" in refused("/no/such/place", tmp_path)


def test_an_artifact_is_replaced_only_by_a_whole_one(hub: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(hub["clip"]), out, precision="fp32")
    before = open_artifact(out).id
    model = broken(hub, tmp_path)
    edit(model / "preprocessor_config.json", do_resize=False)
    with pytest.raises(ExportError):
        export(str(model), out, precision="fp32")
    assert open_artifact(out).id == before
    export(str(hub["vit"]), out, precision="fp32")
    assert open_artifact(out).id.startswith("vit@")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_a_place_that_cannot_be_written_is_one_sentence(
    hub: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        export(str(hub["clip"]), tmp_path / "file" / "out", precision="fp32")


@pytest.mark.parametrize(("precision", "device"), [("fp16", "cpu"), ("int8", "cuda")])
def test_a_precision_that_the_device_has_not_is_refused(
    precision: Any, device: str, hub: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DeviceError):
        export(str(hub["clip"]), tmp_path / "out", precision=precision, device=device)


def test_the_files_of_the_manifest_are_those_that_lie_there(exported: dict[str, Artifact]) -> None:
    for artifact in exported.values():
        listed = set(json.loads((artifact.path / "manifest.json").read_text())["files"])
        present = {
            file.relative_to(artifact.path).as_posix()
            for file in artifact.path.rglob("*")
            if file.is_file()
        }
        assert present == listed | {"manifest.json"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wanwu-tagger"


def test_a_directory_is_exported_once_and_reused(hub: dict[str, Path], cache: Path) -> None:
    settings = Settings(model=str(hub["clip"]), precision="fp32", device="cpu")
    said: list[str] = []
    first = open_model(settings, said.append)
    assert any(line.startswith("exporting clip to") for line in said)
    said.clear()
    assert open_model(settings, said.append) == first
    assert said == []
    assert [first.path] == list(cache.iterdir())


def test_other_weights_or_another_precision_are_exported_anew(
    hub: dict[str, Path], cache: Path, tmp_path: Path
) -> None:
    model = broken(hub, tmp_path)
    fp32 = Settings(model=str(model), precision="fp32", device="cpu")
    first = open_model(fp32)
    bf16 = open_model(Settings(model=str(model), precision="bf16", device="cpu"))
    assert bf16.manifest.precision == "bf16"
    weights = load_file(model / "model.safetensors")
    weights["visual_projection.weight"] *= -1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert len({first.id, bf16.id, open_model(fp32).id}) == 3
    assert len(list(cache.iterdir())) == 3


def test_a_damaged_artifact_in_the_cache_is_made_anew(hub: dict[str, Path], cache: Path) -> None:
    settings = Settings(model=str(hub["clip"]), precision="fp32", device="cpu")
    first = open_model(settings)
    (first.path / "image.pt").write_bytes(b"damaged")
    assert (open_model(settings).path / "image.pt").stat().st_size > 1000


def test_an_artifact_of_another_precision_than_asked_for_is_refused(
    exported: dict[str, Artifact],
) -> None:
    path = str(exported["clip"].path)
    assert open_model(Settings(model=path)).id == exported["clip"].id
    with pytest.raises(ArtifactError, match="was exported in fp32, not int8"):
        open_model(Settings(model=path, precision="int8"))
