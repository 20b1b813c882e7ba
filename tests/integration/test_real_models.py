"""Models end to end: what a worker's tags are worth beside transformers, and when models fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from broken_models import changed, raising
from conftest import PATIENCE_S, Fleet, run
from side_by_side import gather, tags

from worker.artifact.manifest import default_artifact, open_artifact
from worker.contract.labels import LabelPack
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.app import make_app
from worker.contract.scoring import softmax
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.images.decode import decode
from worker.labels.encoder import LabelEncoder
from worker.labels.own_labels import own_pack
from worker.model.original import original_tower

pytestmark = pytest.mark.integration


@pytest.fixture
def queue() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gather(tmp_path_factory.mktemp("photos"))


def test_tags_of_the_bundled_model_are_those_of_its_original(
    queue: str, fleet: Fleet, photos: Path, tmp_path: Path
) -> None:
    worker = fleet.start(queue, "--device", "cpu", decode="exact", model="")
    artifact = open_artifact()
    labels = (*own_pack(artifact).labels[-40:], "动物")
    ours = tags(queue, photos, tmp_path / "tags.jsonl", labels)
    worker.stop()
    tower = original_tower(artifact)
    matrix_KD = LabelEncoder(artifact, "cpu").encode(LabelPack(labels)).matrix_KD
    for path, found in ours.items():
        body = Path(path).read_bytes()
        pixels = decode(body, artifact.manifest.preprocessing, max_pixels=10**8, fast=False)
        with torch.no_grad():
            row_D = tower(torch.from_numpy(pixels.copy())[None])[0].numpy()
        logits_K = artifact.manifest.logit_scale * (matrix_KD @ row_D)
        wanted = dict(zip(labels, softmax(logits_K[None].astype(float))[0], strict=True))
        assert dict(found) == pytest.approx(wanted, abs=1e-3), path


def test_a_job_is_finished_by_eager_when_torchscript_raises(
    queue: str, fleet: Fleet, photos: Path, tmp_path: Path
) -> None:
    labels = ("动物", "植物", "食物")
    sound = fleet.start(queue, "--device", "cpu", model="")
    wanted = tags(queue, photos, tmp_path / "sound.jsonl", labels)
    sound.stop()
    broken = raising(open_artifact(), tmp_path / "broken")
    worker = fleet.start(queue, "--device", "cpu", "--model", str(broken.path))
    found = tags(queue, photos, tmp_path / "eager.jsonl", labels)
    assert found.keys() == wanted.keys()
    for path, right in wanted.items():
        assert [label for label, _ in found[path]] == [label for label, _ in right]
        for (_, score), (_, other) in zip(found[path], right, strict=True):
            assert score == pytest.approx(other, abs=1e-4)
    assert worker.text.count("engine.fallback") == 1
    (stats,) = (
        make_app(Settings(broker_url=SecretUrl(queue)), stores_results=False)
        .control.inspect(timeout=PATIENCE_S, limit=1)
        .stats()
        .values()
    )
    assert (stats["tagger"]["engine"], stats["tagger"]["fallbacks"]) == ("eager", 1)
    worker.stop()


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        pytest.param(
            *("fp32", "cuda", "device cuda was asked for, but torch finds no CUDA device here"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        ("fp16", "cpu", "an fp16 model runs on CUDA alone; export one in bf16 or int8"),
    ],
)
def test_a_model_for_another_device_is_refused_at_the_start(
    queue: str, tmp_path: Path, precision: str, device: str, message: str
) -> None:
    place = Path(shutil.copytree(default_artifact(), tmp_path / "model"))
    changed(open_artifact(place), place, precision=precision)
    done = run("worker", "start", "--model", str(place), "--device", device, broker_url=queue)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in done.stderr + done.stdout
