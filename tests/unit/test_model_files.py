"""Models whose files are missing, halves, pointers or code: one true sentence each."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from worker.contract.i18n import Message
from worker.errors import ExportError
from worker.export.class_names import class_names
from worker.model.attempt import attempt
from worker.model.model_files import check_files, check_processor

CONFIG: dict[str, Any] = {"model_type": "vit", "id2label": {"0": "猫", "1": "狗"}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that is in order."""
    write(tmp_path, **CONFIG)
    save_file({"w": torch.arange(8.0)}, tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    return tmp_path


def write(directory: Path, **config: Any) -> None:
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def refused(directory: Path) -> str:
    with pytest.raises(ExportError) as error:
        check_files(directory, "me/model")
    return str(error.value)


def test_a_directory_in_order_is_fine(model: Path) -> None:
    check_files(model, "me/model")
    check_processor(model, "me/model")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(model: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
    (model / name).write_text(pointer)
    assert refused(model).startswith(f"{name} is only a pointer of Git LFS: get the file itself")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_half_a_file_is_named(model: Path, share: float) -> None:
    file = model / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert refused(model).startswith("model.safetensors is only a part of the file, ")


def test_half_a_pickle_is_named(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"w": torch.arange(80.0)}, model / "pytorch_model.bin")
    check_files(model, "me/model")
    whole = (model / "pytorch_model.bin").read_bytes()
    (model / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert refused(model).startswith("pytorch_model.bin is only a part of the file, ")


def test_a_file_that_is_missing_among_several_is_named(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "w": "model-00001-of-00002.safetensors",
            "v": "model-00002-of-00002.safetensors",
        }
    }
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(model).startswith(
        "model-00002-of-00002.safetensors is missing, one of the files"
    )
    (model / "model.safetensors.index.json").write_text("[]")
    assert refused(model) == "model.safetensors.index.json is no list of files: get it again"


def test_weights_for_another_program_are_none(model: Path) -> None:
    (model / "model.safetensors").rename(model / "open_clip_model.safetensors")
    assert refused(model) == (
        "model 'me/model' holds no weights: model.safetensors or pytorch_model.bin"
    )


def test_what_lies_beside_the_weights_does_no_harm(model: Path) -> None:
    (model / "onnx").mkdir()
    (model / "onnx" / "model.safetensors").write_bytes(b"half")
    (model / "open_clip_model.safetensors").write_bytes(b"half")
    (model / "pytorch_model.bin").write_bytes(b"PK\x03\x04half")
    check_files(model, "me/model")


def test_open_clip_s_own_form_is_named(model: Path) -> None:
    (model / "config.json").rename(model / "open_clip_config.json")
    assert "'me/model' is in the form of open_clip: use its form for transformers" in refused(model)


def test_a_directory_that_is_no_model_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        "model 'me/model' holds no config.json: is this the directory of the model?"
    )


def test_code_that_comes_with_a_model_is_refused_and_nobody_is_asked(model: Path) -> None:
    write(model, model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    assert "comes with Python code of its own, which is never run here" in refused(model)
    # transformers has its own code for this one.
    write(model, auto_map={"AutoConfig": "mine.Config"}, **CONFIG)
    check_files(model, "me/model")


def test_a_type_that_is_not_known_is_named(model: Path) -> None:
    write(model, model_type="never-heard-of")
    assert refused(model).endswith("a type that this transformers does not know: never-heard-of")
    write(model, name="x")
    assert refused(model).endswith("does not know: its config.json has no model_type")


@pytest.mark.parametrize(
    ("body", "reason"),
    [("{", "config.json is no JSON"), ("[]", "config.json holds no JSON object")],
)
def test_a_config_that_is_none_is_named(model: Path, body: str, reason: str) -> None:
    (model / "config.json").write_text(body)
    assert reason in refused(model)


def test_a_model_of_patches_in_any_number_is_named(model: Path) -> None:
    write(model, model_type="siglip2")
    assert "use a SigLIP 2 of fixed resolution" in refused(model)


@pytest.mark.parametrize("classes", [{"cat": "猫"}, {"-1": "猫"}, {"1.5": "猫"}, ["猫", "狗"]])
def test_classes_that_are_not_numbered_are_named(model: Path, classes: Any) -> None:
    write(model, model_type="vit", id2label=classes)
    assert refused(model).startswith("id2label in config.json has ")
    assert refused(model).endswith("for a class: number the classes from 0")


@pytest.mark.parametrize(("value", "shown"), [(None, "null"), ({"a": 1}, '{"a": 1}'), ([], "[]")])
def test_classes_whose_names_are_no_texts_are_named(model: Path, value: Any, shown: str) -> None:
    write(model, model_type="vit", id2label={"0": "猫", "1": value})
    assert refused(model) == f"id2label in config.json calls class 1 {shown}: names are texts"


@pytest.mark.parametrize(
    ("file", "auto", "kind", "known"),
    [
        (
            "preprocessor_config.json",
            "AutoImageProcessor",
            "image_processor_type",
            "CLIPFeatureExtractor",
        ),
        ("tokenizer_config.json", "AutoTokenizer", "tokenizer_class", "BertTokenizer"),
    ],
)
def test_code_that_only_a_file_beside_the_weights_names_is_refused(
    model: Path, file: str, auto: str, kind: str, known: str
) -> None:
    described = {"auto_map": {auto: "mine.Mine"}, kind: "Mine"}
    (model / file).write_text(json.dumps(described))
    assert "comes with Python code of its own, which is never run here" in refused(model)
    (model / file).write_text(json.dumps(described | {kind: known}))
    check_files(model, "me/model")


@pytest.mark.parametrize("file", ["tokenizer.json", "added_tokens.json", "processor_config.json"])
def test_a_file_beside_the_weights_that_is_no_object_is_named(model: Path, file: str) -> None:
    for body, sentence in (
        ("[]", " holds no JSON object: get it again"),
        ("{", " is no JSON: Expecting"),
        ("[" * 100_000, " is no JSON: "),
    ):
        (model / file).write_text(body)
        assert refused(model).startswith(file + sentence)


def test_a_file_that_a_library_fell_over_is_named_and_not_what_it_said() -> None:
    def fall() -> None:
        raise KeyError("added_tokens")  # noqa: EM101 - as libraries do

    with pytest.raises(ExportError) as error:
        attempt(fall, Message("the tokenizer"), ("tokenizer.json",))
    assert str(error.value) == (
        "the tokenizer cannot be used: something is wrong in tokenizer.json: get them again"
    )


def test_a_model_that_does_not_say_how_images_are_prepared_is_named(model: Path) -> None:
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(ExportError, match=r"has no preprocessor_config\.json, which says how"):
        check_processor(model, "me/model")


def test_a_header_that_makes_no_sense_is_left_to_the_library(model: Path) -> None:
    for header in (b"[]", b'{"w": 3}', b"nothing"):
        body = struct.pack("<Q", len(header)) + header
        (model / "model.safetensors").write_bytes(body)
        check_files(model, "me/model")


# --- names of classes


def names(*given: Any, start: int = 0) -> tuple[str, ...]:
    classes = dict(enumerate(given, start=start))
    return class_names(SimpleNamespace(id2label=classes, num_labels=len(given)))


def test_names_may_hold_any_characters() -> None:
    odd = ("a | b", "x < y", "# 1", '"quoted"', "it's", "🎉", "ＡＢ", "a,b;c")
    assert names(*odd) == odd


def test_blanks_around_names_and_line_breaks_go() -> None:
    assert names("  cat ", "a\nb", "tab\there", 7) == ("cat", "a b", "tab here", "7")


def test_each_class_has_a_name_of_its_own() -> None:
    assert names("鹤", "鹤", "", "  ", "鹤") == ("鹤", "鹤 (1)", "LABEL_2", "LABEL_3", "鹤 (4)")
    # A name that another class really has is not taken from it.
    assert names("a", "a", "a (1)", "LABEL_4", "") == (
        *("a", "a (1) (1)", "a (1)", "LABEL_4", "LABEL_4 (4)"),
    )


def test_names_stand_in_the_order_of_their_numbers() -> None:
    shuffled = {3: "c", 1: "a", 2: "b"}
    assert class_names(SimpleNamespace(id2label=shuffled, num_labels=3)) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("\ud800",), "cannot be used: a label or a template holds bytes"),
        (("x" * 1001,), "cannot be used: a label or a template has at most"),
    ],
)
def test_names_that_no_label_may_have_are_refused(given: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        names(*given)


def test_names_for_some_classes_alone_are_refused() -> None:
    with pytest.raises(ExportError, match="names 1 classes, and the model has 2"):
        class_names(SimpleNamespace(id2label={0: "a"}, num_labels=2))
