"""The engine `exported`: an artifact that holds it, beside TorchScript or alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_models import changed
from conftest import PATIENCE_S, ROOT, Fleet, Worker
from hub_models import save
from images import encoded, picture
from side_by_side import tags

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.settings import Settings
from worker.engines.choose import LOADERS, open_engine
from worker.engines.fallback import FallbackEngine
from worker.engines.programs import save_program
from worker.errors import ArtifactError
from worker.export.on_first_use import export_to
from worker.export.second_engine import Trial, add_engine
from worker.export.tracing import BATCHES, pixels
from worker.labels.text_tower import TextEmbedder

BOTH = ("torchscript", "exported")
TEXTS = ("猫", "一只狗在红色的椅子上")
# Run in a process of its own, in which TorchScript can do nothing: python -c, model, artifact.
WITHOUT_TORCHSCRIPT = """
import json, sys
from pathlib import Path
import torch

def refuse(*_, **__):
    raise RuntimeError("TorchScript is not to be had")

for name in ("load", "save", "trace", "freeze", "optimize_for_inference"):
    setattr(torch.jit, name, refuse)
from worker.artifact.manifest import open_artifact
from worker.contract.settings import Settings
from worker.engines.choose import open_engine
from worker.export.on_first_use import export_to
from worker.export.tracing import pixels
from worker.labels.text_tower import TextEmbedder
settings = Settings(model=sys.argv[1], precision="fp32", device="cpu")
place = export_to(Path(sys.argv[2]), settings, None, lambda _: None, ("exported",))
artifact = open_artifact(place)
spec = artifact.manifest.preprocessing
engine = open_engine(artifact, settings)
rows = engine.embed(pixels(3, spec.height, spec.width)).tolist()
texts = TextEmbedder(artifact, "cpu").embed(json.loads(sys.argv[3])).tolist()
print(json.dumps([engine.name, artifact.manifest.format, rows, texts]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("hub") / "chinese_clip", "chinese_clip")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def both(model: Path, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    settings = Settings(model=str(model), precision="fp32", device="cpu")
    place = tmp_path_factory.mktemp("both") / "model"
    return open_artifact(export_to(place, settings, None, said.append, BOTH))


def images(artifact: Artifact, count: int) -> torch.Tensor:
    spec = artifact.manifest.preprocessing
    return pixels(count, spec.height, spec.width)


def test_both_engines_of_an_artifact_agree_with_transformers(both: Artifact) -> None:
    engines = [LOADERS[name](both, "cpu") for name in (*BOTH, "eager")]
    assert [one.name for one in engines] == [*BOTH, "eager"]
    for size in BATCHES:
        ours, program, wanted = (one.embed(images(both, size)) for one in engines)
        assert torch.allclose(program, wanted, atol=1e-6)
        assert torch.allclose(program, ours, atol=1e-6)


def test_the_export_says_what_it_measured_and_the_manifest_keeps_it(
    both: Artifact, said: list[str]
) -> None:
    manifest = both.manifest
    assert {"image.pt", "image.pt2", "text.pt", "text.pt2"} <= manifest.files.keys()
    assert (manifest.format, manifest.engine in BOTH) == (1, True)
    assert manifest.parity["exported_image_min_cosine"] >= 0.99999
    ratio = manifest.speed["exported_to_torchscript"]
    assert manifest.engine == ("exported" if ratio > 1.05 else "torchscript")
    assert any(f"exported is {ratio:.2f} times as fast as torchscript" in line for line in said)
    assert not [file.name for file in both.path.iterdir() if file.name.startswith("fp32")]


def test_an_artifact_is_made_loaded_and_run_without_torchscript(
    model: Path, both: Artifact, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_TORCHSCRIPT),
            *(str(model), str(tmp_path / "alone"), json.dumps(TEXTS)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=3 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, written, rows, texts = json.loads(done.stdout)
    assert (name, written) == ("exported", 3)
    assert not list((tmp_path / "alone").glob("*.pt"))
    wanted = LOADERS["torchscript"](both, "cpu").embed(images(both, 3))
    assert torch.allclose(torch.tensor(rows), wanted, atol=1e-6)
    assert np.allclose(texts, TextEmbedder(both, "cpu").embed(TEXTS), atol=1e-6)


@pytest.mark.integration
def test_one_artifact_is_served_by_both_engines(
    both: Artifact, fleet: Fleet, tmp_path: Path
) -> None:
    photo = tmp_path / "photos" / "one.jpg"
    photo.parent.mkdir()
    photo.write_bytes(encoded(picture(3, (320, 240))))
    found = {}
    with EmbeddedRedis() as server:
        for name in BOTH:
            worker = start(fleet, server.url, both, name)
            assert f"engine={name}" in worker.text
            place = tmp_path / f"{name}.jsonl"
            found[name] = tags(server.url, photo.parent, place, ("猫", "狗", "山"))
            worker.stop()
    (left,), (right,) = (one.values() for one in found.values())
    assert dict(left) == pytest.approx(dict(right), abs=1e-5)


def start(fleet: Fleet, url: str, artifact: Artifact, engine: str) -> Worker:
    return fleet.start(
        *(url, "--device", "cpu", "--model", str(artifact.path), "--engine", engine), decode="exact"
    )


def test_a_program_is_made_once_of_an_artifact_that_has_none(
    both: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    old = without(both, tmp_path / "old", "image.pt2", "text.pt2")
    for _ in range(2):
        rows = LOADERS["exported"](old, "cpu").embed(images(both, 2))
        (made,) = (tmp_path / "cache" / "wanwu-tagger" / "exported").iterdir()
        assert made.name.startswith(old.id)
    assert torch.allclose(rows, LOADERS["exported"](both, "cpu").embed(images(both, 2)))
    alone = without(old, tmp_path / "alone", "transformers/config.json")
    with pytest.raises(ArtifactError, match=r"holds no transformers/config\.json"):
        LOADERS["exported"](alone, "cpu")


def without(artifact: Artifact, place: Path, *names: str) -> Artifact:
    shutil.copytree(artifact.path, place)
    for name in names:
        (place / name).unlink()
    return changed(artifact, place, engine=None)


class Looking(torch.nn.Module):
    """Answers blank images, so that it warms up, and raises on all others."""

    table: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(1, dim))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(pixels.flatten(1).amax(1).long(), self.table)


def test_when_a_program_raises_eager_answers_from_then_on(both: Artifact, tmp_path: Path) -> None:
    place = tmp_path / "raising"
    shutil.copytree(both.path, place)
    save_program(Looking(both.manifest.embedding_dim), (images(both, 2),), place / "image.pt2")
    engine = open_engine(changed(both, place), Settings(device="cpu", engine="exported"))
    assert isinstance(engine, FallbackEngine)
    assert engine.embed(images(both, 1) * 0).shape == (1, both.manifest.embedding_dim)
    assert (engine.name, engine.fallbacks) == ("exported", 0)
    wanted = LOADERS["torchscript"](both, "cpu").embed(images(both, 3))
    assert torch.allclose(engine.embed(images(both, 3)), wanted, atol=1e-5)
    assert (engine.name, engine.fallbacks) == ("eager", 1)


def test_a_program_that_was_changed_is_not_loaded(both: Artifact, tmp_path: Path) -> None:
    place = tmp_path / "changed"
    shutil.copytree(both.path, place)
    with (place / "image.pt2").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ArtifactError, match=r"image\.pt2 is not the file that the manifest lists"):
        open_artifact(place)


class Mean(torch.nn.Module):
    """Pixels to their mean colours."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean((2, 3))


class Deciding(torch.nn.Module):
    """What it does depends on the pixels, which torch.export refuses and a trace overlooks."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = pixels.float().mean((2, 3))
        return rows if bool(pixels.any()) else rows + 1


def test_an_artifact_goes_without_an_engine_that_the_model_is_not_for(
    both: Artifact, tmp_path: Path
) -> None:
    lines: list[str] = []
    inputs = images(both, max(BATCHES))
    trial = Trial(tmp_path, inputs, Mean()(inputs), lines.append)
    first = LOADERS["torchscript"](both, "cpu")
    assert add_engine("exported", first, Deciding(), "fp32", trial) is None
    assert "goes without the engine exported: fp32-image.pt2 cannot be exported" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_an_artifact_goes_without_an_engine_that_is_too_far_from_the_model(
    both: Artifact, tmp_path: Path
) -> None:
    lines: list[str] = []
    inputs = images(both, max(BATCHES))
    trial = Trial(tmp_path, inputs, Mean()(inputs) + 1, lines.append)
    first = LOADERS["torchscript"](both, "cpu")
    assert add_engine("exported", first, Mean(), "fp32", trial) is None
    assert lines[-1].endswith("it is too far from the model")
    assert not list(tmp_path.iterdir())
