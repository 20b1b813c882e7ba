"""worker.artifact.model_names: why there is no model of a name, and what is near."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from worker.artifact.model_names import no_model, no_source


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    place = tmp_path / "artifacts" / "chinese-clip"
    place.mkdir(parents=True)
    manifest = {"source": {"id": "someone/chinese-clip"}}
    (place / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return place


@pytest.fixture
def original(tmp_path: Path) -> Path:
    place = tmp_path / "models--someone--vit" / "snapshots" / "0123"
    place.mkdir(parents=True)
    (place / "config.json").touch()
    return place


def test_what_may_be_a_model_is_left_to_whoever_loads_it(artifact: Path, original: Path) -> None:
    for name in ("", str(artifact), str(original), "someone/vit"):
        assert no_model(name) is None
    for name in (str(original), "someone/vit"):
        assert no_source(name) is None
    (original / "config.json").unlink()
    os.mkfifo(original / "config.json")
    assert no_source(str(original)) is None


def test_without_a_model_it_is_said_what_may_be_given(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("vit", str(tmp_path / "none"), str(empty)):
        said = str(no_model(name))
        assert said.startswith(f"there is no model at {name}: give an artifact")
        assert "config.json" in said
        assert "id of the hub (owner/name)" in said
        assert "artifact" not in str(no_source(name))


def test_the_model_that_is_near_is_named(tmp_path: Path, artifact: Path, original: Path) -> None:
    (artifact / "text.pt").touch()
    near = {
        artifact.with_name("chinese-clop"): artifact,
        artifact / "text.pt": artifact,
        artifact.parent: artifact,
        original.parents[1]: original,
        tmp_path: artifact,
    }
    for place, meant in near.items():
        said = str(no_model(str(place)))
        assert said.startswith(f"there is no model at {place}; is {meant} meant? Else give")
    assert f"is {original} meant?" in str(no_source(str(tmp_path)))
    assert "meant?" not in str(no_source(str(artifact.parent)))


def test_an_artifact_is_not_exported_again(artifact: Path) -> None:
    said = str(no_source(str(artifact)))
    assert said.startswith(f"{artifact} is an artifact already, which `worker start --model ")
    assert said.endswith("give what it was made of (someone/chinese-clip)")
    (artifact / "manifest.json").write_text("[")
    assert str(no_source(str(artifact))).endswith("give what it was made of")


def test_a_model_that_has_a_manifest_of_its_own_is_exported(original: Path) -> None:
    (original / "manifest.json").touch()
    assert no_source(str(original)) is None
