"""A model directory is checked before anything in it is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_model import build, write_manifest

from worker.artifact.manifest import Preprocessing, default_artifact, open_artifact
from worker.errors import ArtifactError, NoModelError


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def change(model: Path, **fields: Any) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    manifest |= fields
    kept = {name: value for name, value in manifest.items() if value is not None}
    (model / "manifest.json").write_text(json.dumps(kept))


def test_a_sound_artifact_opens_with_name_and_digest_for_its_id(model: Path) -> None:
    artifact = open_artifact(model)
    digest = hashlib.sha256((model / "manifest.json").read_bytes()).hexdigest()
    assert artifact.id == f"tiny@{digest[:12]}"
    assert artifact.manifest.preprocessing == Preprocessing(height=8, width=8)
    assert artifact.file("image.pt") == model / "image.pt"


def test_the_model_that_ships_with_the_program_is_sound() -> None:
    assert open_artifact() == open_artifact(str(default_artifact()))


def test_a_directory_that_does_not_exist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no model at .*worker export"):
        open_artifact(tmp_path / "none")


def test_a_directory_without_manifest_was_not_exported(tmp_path: Path) -> None:
    with pytest.raises(NoModelError, match=f"there is no model at {tmp_path}: give an artifact"):
        open_artifact(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        open_artifact(tmp_path)


@pytest.mark.parametrize("body", ["", "[]", "{", '{"format": "1"}', '{"format": 1}', "\x00"])
def test_a_manifest_that_makes_no_sense_is_refused(body: str, model: Path) -> None:
    (model / "manifest.json").write_text(body)
    with pytest.raises(ArtifactError, match="cannot be used"):
        open_artifact(model)


def test_a_newer_format_asks_for_an_upgrade_whatever_else_it_holds(model: Path) -> None:
    (model / "manifest.json").write_text('{"format": 4, "files": "elsewhere"}')
    with pytest.raises(ArtifactError, match="format 4; this program knows up to 3: upgrade"):
        open_artifact(model)


def test_fields_unknown_to_this_program_are_passed_over(model: Path) -> None:
    change(model, later="more")
    assert open_artifact(model).manifest.name == "tiny"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("logit_scale", 0, "logit_scale must be a number from 0.001 to 10000"),
        ("logit_scale", -4.6, "logit_scale must be a number from"),
        ("logit_scale", 1e308, "logit_scale must be a number from"),
        ("logit_scale", 1e-308, "logit_scale must be a number from"),
        ("logit_scale", float("inf"), "malformed"),
        ("logit_scale", float("nan"), "malformed"),
        ("template", "no place", "template must hold"),
        ("labels", "other.txt", "files must list other.txt"),
        ("embedding_dim", 0, "embedding_dim"),
        ("precision", "fp4", "precision"),
        ("preprocessing", {"height": 8, "width": 8, "resize": "magic"}, "resize"),
        ("name", None, "name"),
    ],
)
def test_a_manifest_that_cannot_be_right_names_the_field(
    field: str, value: Any, sentence: str, model: Path
) -> None:
    change(model, **{field: value})
    with pytest.raises(ArtifactError, match=sentence):
        open_artifact(model)


@pytest.mark.parametrize("name", ["image.pt", "text.pt", "tokenizer/tokenizer.json", "labels.txt"])
def test_a_file_that_was_altered_is_refused(name: str, model: Path) -> None:
    with (model / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match=rf"{name} is not the file that the manifest lists"):
        open_artifact(model)


def test_a_file_that_is_missing_is_named(model: Path) -> None:
    (model / "text.pt").unlink()
    with pytest.raises(ArtifactError, match=r"text\.pt of the model cannot be read: No such file"):
        open_artifact(model)


def test_a_manifest_without_a_tower_is_refused(model: Path) -> None:
    (model / "text.pt").unlink()
    write_manifest(model)
    with pytest.raises(ArtifactError, match=r"files must list text\.pt"):
        open_artifact(model)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "tokenizer/../../secret", "link"])
def test_no_listed_name_leads_out_of_the_directory(name: str, model: Path) -> None:
    (model.parent / "secret").write_bytes(b"x")
    (model / "link").symlink_to(model.parent / "secret")
    files = json.loads((model / "manifest.json").read_text())["files"]
    change(model, files=files | {name: hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(ArtifactError, match="lies outside of it"):
        open_artifact(model)


def test_only_listed_files_are_handed_out(model: Path) -> None:
    (model / "extra.pt").touch()
    with pytest.raises(ArtifactError, match=r"has no extra\.pt"):
        open_artifact(model).file("extra.pt")


def test_every_change_of_the_manifest_changes_the_id(model: Path) -> None:
    before = open_artifact(model).id
    change(model, logit_scale=21.0)
    assert open_artifact(model).id != before
