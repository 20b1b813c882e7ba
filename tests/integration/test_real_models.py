"""Models end to end: what a worker's tags are worth beside transformers, and when models fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from broken_models import changed, raising
from conftest import PATIENCE_S, Fleet, run
from PIL import Image
from side_by_side import compare, gather, tags
from transformers import ChineseCLIPImageProcessor, PreTrainedTokenizerFast, pipeline

from worker.artifact.manifest import Artifact, default_artifact, open_artifact
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.app import make_app
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.model.original import original_model

pytestmark = pytest.mark.integration


@pytest.fixture
def queue() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gather(tmp_path_factory.mktemp("photos"))


def test_tags_of_the_bundled_model_are_those_of_transformers_own_pipeline(
    queue: str, fleet: Fleet, photos: Path, tmp_path: Path
) -> None:
    # As their processor does: the bundled model may be given pixels that are not quite the same.
    worker = fleet.start(queue, "--device", "cpu", decode="exact")
    labels = (*open_artifact().file("labels.txt").read_text(encoding="utf-8").split()[:40], "动物")
    ours = tags(queue, photos, tmp_path / "tags.jsonl", labels)
    worker.stop()
    artifact = open_artifact()
    zero_shot = pipeline(
        "zero-shot-image-classification",
        model=original_model(artifact),
        tokenizer=_tokenizer(artifact),
        image_processor=_processor(artifact),
        device="cpu",
    )
    assert compare(ours, zero_shot, labels, artifact.manifest.template) >= 0.99


def _tokenizer(artifact: Artifact) -> PreTrainedTokenizerFast:
    file = artifact.file("tokenizer/tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="[PAD]")


def _processor(artifact: Artifact) -> ChineseCLIPImageProcessor:
    """The one that resizes with Pillow: the other's last grey level moves so small a model."""
    spec = artifact.manifest.preprocessing
    return ChineseCLIPImageProcessor(
        size={"height": spec.height, "width": spec.width},
        do_center_crop=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
    )


def test_a_job_is_finished_by_eager_when_torchscript_raises(
    queue: str, fleet: Fleet, photos: Path, tmp_path: Path
) -> None:
    labels = ("动物", "植物", "食物")
    sound = fleet.start(queue, "--device", "cpu")
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
