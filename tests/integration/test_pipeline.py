"""Chunk -> results, with a real model in miniature and a real Redis."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import torch
from conftest import PATIENCE_S
from images import encoded
from odd_web import Answer, hang, odd_web, ok
from PIL import Image
from tiny_model import SIDE, build

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.labels import LabelPack, LabelStore
from worker.contract.messages import Chunk, ChunkResult, Failure, ImageRef
from worker.contract.settings import Settings
from worker.contract.stores.blobs import BlobStore
from worker.engines.torchscript import TorchScriptEngine
from worker.errors import ArtifactError, CancelledError, PoisonError, WorkerGoneError
from worker.export.synthetic import photographs
from worker.images.decode import decode
from worker.images.read import Blobs
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.stats import STAGES
from worker.pipeline.stores import Stores

COLOURS = {"红": "red", "绿": "lime", "蓝": "blue"}
SENT_AT_S = 1_000_000.0
# Processes are tried in `test_decode_pool`, and by every real worker; they take seconds to load.
SETTINGS = Settings(device="cpu", decoder="threads", decode_threads=2, image_roots=("/",))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return open_artifact(build(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def started(tiny: Artifact, client: redis.Redis) -> Iterator[Callable[..., Pipeline]]:
    """Make pipelines that are stopped at the end."""
    with ExitStack() as stack:

        def make(
            artifact: Artifact = tiny,
            settings: Settings = SETTINGS,
            blobs: Blobs | None = None,
            **parts: Any,
        ) -> Pipeline:
            stores = Stores(blobs or BlobStore(client, 60), LabelStore(client))
            pipeline = Pipeline(settings, artifact, stores, **parts)
            stack.callback(pipeline.stop)
            pipeline.start()
            return pipeline

        yield make


@pytest.fixture
def pipeline(started: Callable[..., Pipeline]) -> Pipeline:
    return started()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of an image of each colour, by the label it should get."""
    for label, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{label}.png")
    return {label: str(tmp_path / f"{label}.png") for label in COLOURS}


def loading(kind: type[TorchScriptEngine]) -> Callable[[Artifact, Settings], TorchScriptEngine]:
    """Load an engine of this kind instead of the one that the settings ask for."""
    return lambda artifact, settings: kind.load(artifact, settings.device)


def chunk(*paths: str | ImageRef, seq: int = 0, **fields: Any) -> Chunk:
    refs = tuple(ImageRef(one) if isinstance(one, str) else one for one in paths)
    return Chunk(job="job", seq=seq, images=refs, **({"sent_at_s": SENT_AT_S} | fields))


def best(result: ChunkResult) -> list[str | None]:
    return [image.tags[0].label if image.tags else None for image in result.images]


def codes(result: ChunkResult) -> list[str | None]:
    return [image.error.code if image.error else None for image in result.images]


def test_every_image_gets_its_tags_in_the_order_of_the_chunk(
    pipeline: Pipeline, files: dict[str, str]
) -> None:
    sent = chunk(*[files[label] for label in "蓝红绿红蓝绿绿红蓝"], top_k=2)
    result = pipeline.process(sent, SENT_AT_S)
    assert best(result) == list("蓝红绿红蓝绿绿红蓝")
    assert [image.path for image in result.images] == [ref.path for ref in sent.images]
    assert all(len(image.tags) == 2 for image in result.images)


def test_a_result_names_chunk_worker_device_and_model(
    started: Callable[..., Pipeline], tiny: Artifact, files: dict[str, str]
) -> None:
    result = started(worker="bench").process(chunk(files["红"], seq=7), SENT_AT_S)
    assert (result.job, result.seq, result.worker) == ("job", 7, "bench")
    assert (result.device, result.model) == ("cpu", tiny.id)
    assert started().process(chunk(files["红"]), SENT_AT_S).worker == socket.gethostname()


def test_a_result_survives_the_wire(pipeline: Pipeline, files: dict[str, str]) -> None:
    result = pipeline.process(chunk(files["红"], "/none"), SENT_AT_S)
    assert ChunkResult.from_wire(json.loads(json.dumps(result.to_wire()))) == result


def test_bad_images_do_not_hurt_their_neighbours(
    pipeline: Pipeline, files: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "letter.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "half.png").write_bytes(Path(files["绿"]).read_bytes()[:60])
    bad = [str(tmp_path / name) for name in ("letter.jpg", "empty.jpg", "half.png", "none.jpg")]
    reported = ImageRef("/far/away.jpg", error=Failure("unreadable", "read", "not allowed"))
    mixed: list[str | ImageRef] = [
        bad[0],
        files["红"],
        bad[1],
        bad[2],
        files["蓝"],
        reported,
        bad[3],
        files["绿"],
    ]
    result = pipeline.process(chunk(*mixed), SENT_AT_S)
    assert best(result) == [None, "红", None, None, "蓝", None, None, "绿"]
    assert codes(result) == [
        *("not_an_image", None, "empty_file", "truncated"),
        *(None, "unreadable", "not_found", None),
    ]
    assert result.failed == 5


def test_a_tagged_image_has_a_time_for_every_stage(
    pipeline: Pipeline, files: dict[str, str]
) -> None:
    (image,) = pipeline.process(chunk(files["红"]), SENT_AT_S + 2.5).images
    times = msgspec.to_builtins(image.timing)
    assert times["queue_ms"] == 2500
    assert all(ms is not None and ms >= 0 for ms in times.values())
    stages = sum(ms for name, ms in times.items() if name != "total_ms")
    assert times["total_ms"] >= stages - 0.01
    assert image.batch_size == 1


def test_an_image_that_failed_has_times_for_the_stages_it_reached(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "letter.jpg").write_text("no image")
    (image,) = pipeline.process(chunk(str(tmp_path / "letter.jpg")), SENT_AT_S).images
    timing = image.timing
    assert None not in (timing.read_ms, timing.decode_ms, timing.total_ms)
    assert (timing.batch_wait_ms, timing.infer_ms, image.batch_size) == (None, None, None)


def test_a_sender_whose_clock_is_ahead_makes_no_negative_time(
    pipeline: Pipeline, files: dict[str, str]
) -> None:
    (image,) = pipeline.process(chunk(files["红"]), SENT_AT_S - 60).images
    assert image.timing.queue_ms == 0
    assert image.timing.total_ms is not None
    assert image.timing.total_ms > 0


def test_blobs_are_tagged_like_files(pipeline: Pipeline, client: redis.Redis) -> None:
    BlobStore(client, 60).put(
        {"wanwu:blob:job-0:0": encoded(Image.new("RGB", (9, 9), "blue"), "PNG")}
    )
    refs = (
        ImageRef("/x.png", blob="wanwu:blob:job-0:0"),
        ImageRef("/y.png", blob="wanwu:blob:job-0:1"),
    )
    result = pipeline.process(chunk(*refs), SENT_AT_S)
    assert best(result) == ["蓝", None]
    assert codes(result) == [None, "blob_missing"]


def test_a_server_that_hangs_holds_up_neither_other_images_nor_urgent_ones(
    started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    answers: dict[str, bytes | Answer] = {"/hang": hang()}
    answers["/good"] = ok(Path(files["红"]).read_bytes())
    with odd_web(answers) as web, ThreadPoolExecutor(1) as tasks:
        wanted = {"image_urls": (web.address,), "fetch_timeout_s": 3, "decode_threads": 1}
        pipeline = started(settings=msgspec.structs.replace(SETTINGS, **wanted))
        slow = [f"{web.address}/hang"] * 4
        held_up = tasks.submit(pipeline.process, chunk(*slow, f"{web.address}/good"), SENT_AT_S)
        while len(web.seen) < 5:
            assert not held_up.done()
        mixed = chunk(files["绿"], f"{web.address}/good", files["蓝"], seq=1)
        assert best(pipeline.process(mixed, SENT_AT_S)) == ["绿", "红", "蓝"]
        urgent = chunk(f"{web.address}/good", seq=2, urgent=True)
        assert best(pipeline.process(urgent, SENT_AT_S)) == ["红"]
        assert not held_up.done()
        result = held_up.result(PATIENCE_S)
    assert codes(result) == ["fetch_timeout"] * 4 + [None]
    assert all(image.timing.read_ms for image in result.images)


def test_a_job_brings_its_own_labels(
    pipeline: Pipeline, client: redis.Redis, files: dict[str, str]
) -> None:
    pack = LabelStore(client).put(LabelPack(("红红", "红绿"), ("{}",)))
    result = pipeline.process(chunk(files["红"], files["绿"], labels=pack), SENT_AT_S)
    assert best(result) == ["红红", "红绿"]


def test_labels_are_fetched_once_and_not_for_every_chunk(
    pipeline: Pipeline, client: redis.Redis, files: dict[str, str]
) -> None:
    pack = LabelStore(client).put(LabelPack(("红",)))
    pipeline.process(chunk(files["红"], labels=pack), SENT_AT_S)
    client.flushall()
    assert best(pipeline.process(chunk(files["红"], labels=pack), SENT_AT_S)) == ["红"]


def test_labels_that_are_gone_fail_every_image_of_the_chunk(
    pipeline: Pipeline, files: dict[str, str]
) -> None:
    result = pipeline.process(chunk(files["红"], files["绿"], labels="0123456789abcdef"), SENT_AT_S)
    assert codes(result) == ["labels_missing", "labels_missing"]
    assert "submit the job again" in result.records()[0].error.message  # type: ignore[union-attr]


def test_a_model_without_labels_says_that_some_are_needed(
    started: Callable[..., Pipeline], tmp_path: Path, files: dict[str, str]
) -> None:
    pipeline = started(open_artifact(build(tmp_path / "bare", labels=None, template="a {}")))
    assert codes(pipeline.process(chunk(files["红"]), SENT_AT_S)) == ["labels_missing"]
    info = pipeline.info()
    assert (info.has_labels, info.vocabulary, info.vocabulary_labels) == (False, "", 0)


def test_a_chinese_model_without_labels_tags_by_the_general_vocabulary(
    started: Callable[..., Pipeline], tmp_path: Path, files: dict[str, str]
) -> None:
    pipeline = started(open_artifact(build(tmp_path / "bare", labels=None)))
    (image,) = pipeline.process(chunk(files["红"]), SENT_AT_S).images
    assert "红" in image.tags[0].label
    info = pipeline.info()
    assert (info.has_labels, info.vocabulary) == (False, "general")
    # Few of them name a colour, which is all that the tiny model can read.
    assert 0 < info.vocabulary_labels < info.vocabulary_left_out


def test_the_threshold_of_the_chunk_holds(pipeline: Pipeline, files: dict[str, str]) -> None:
    (image,) = pipeline.process(chunk(files["红"], threshold=0.5), SENT_AT_S).images
    assert [tag.label for tag in image.tags] == ["红"]


def test_a_refused_chunk_fails_whole_and_untouched(pipeline: Pipeline) -> None:
    result = pipeline.refuse(chunk("/none", "/nowhere"), CancelledError("job"))
    assert codes(result) == ["cancelled", "cancelled"]
    assert [image.path for image in result.images] == ["/none", "/nowhere"]


def test_images_of_many_chunks_share_batches(
    started: Callable[..., Pipeline],
    files: dict[str, str],
    wait_until: Callable[[Callable[[], bool]], None],
) -> None:
    busy, go_on = threading.Event(), threading.Event()

    class Patient(TorchScriptEngine):
        """Keeps its first batch until the others are decoded."""

        def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
            if armed and not busy.is_set():
                busy.set()
                assert go_on.wait(PATIENCE_S)
            return super().embed(pixels_NCHW)

    armed: list[bool] = []
    pipeline = started(load_engine=loading(Patient))
    armed.append(True)
    with ThreadPoolExecutor(9) as tasks:
        first = tasks.submit(pipeline.process, chunk(files["红"]), SENT_AT_S)
        assert busy.wait(PATIENCE_S)
        labels = "绿蓝红红蓝绿蓝绿"
        others = [
            tasks.submit(pipeline.process, chunk(files[label], seq=seq), SENT_AT_S)
            for seq, label in enumerate(labels, start=1)
        ]
        wait_until(lambda: len(pipeline._batcher._policy._ready) == len(labels))
        go_on.set()
        results = [one.result(PATIENCE_S) for one in others]
    assert [best(result) for result in results] == [[label] for label in labels]
    assert {result.images[0].batch_size for result in results} == {4}
    assert best(first.result(PATIENCE_S)) == ["红"]
    assert pipeline.info().batch_sizes == {"1": 1, "4": 2}


class BrokenStore(BlobStore):
    """A store that fails in the way that the test says."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get(self, key: str) -> bytes | None:
        raise self._error


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), MemoryError()])
def test_a_bug_met_on_one_image_costs_that_image_alone(
    error: Exception, started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    pipeline = started(blobs=BrokenStore(error))
    result = pipeline.process(
        chunk(files["红"], ImageRef("/x", blob="wanwu:blob:job-0:7"), files["绿"]), SENT_AT_S
    )
    assert codes(result) == [None, "internal_error", None]
    assert best(result) == ["红", None, "绿"]


def test_when_redis_is_away_the_chunk_is_not_judged(started: Callable[..., Pipeline]) -> None:
    pipeline = started(blobs=BrokenStore(redis.ConnectionError("away")))
    with pytest.raises(redis.ConnectionError):
        pipeline.process(chunk(ImageRef("/x", blob="wanwu:blob:job-0:7")), SENT_AT_S)


def test_after_a_chunk_that_was_not_judged_the_next_is_tagged(
    started: Callable[..., Pipeline],
    files: dict[str, str],
    wait_until: Callable[[Callable[[], bool]], None],
) -> None:
    pipeline = started(blobs=BrokenStore(redis.ConnectionError("away")))
    with pytest.raises(redis.ConnectionError):
        pipeline.process(
            chunk(*[ImageRef("/x", blob="wanwu:blob:job-0:7")] * 5, files["绿"]), SENT_AT_S
        )
    assert best(pipeline.process(chunk(files["红"]), SENT_AT_S)) == ["红"]
    # The first chunk's last images may still be on their way when it is given up.
    wait_until(lambda: pipeline._batcher._policy._expected == 0)


def test_when_the_inference_thread_dies_others_must_try_and_the_worker_hears(
    started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    class Mortal(TorchScriptEngine):
        def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
            if pixels_NCHW.any():
                raise SystemExit
            return super().embed(pixels_NCHW)

    heard = threading.Event()
    pipeline = started(load_engine=loading(Mortal), on_death=heard.set)
    for _ in range(2):
        with pytest.raises(WorkerGoneError):
            pipeline.process(chunk(files["红"], files["绿"]), SENT_AT_S)
    assert heard.wait(PATIENCE_S)
    assert not pipeline.capacity.is_left


def test_images_are_attempted_one_by_one_between_beginning_and_end(
    started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    pipeline, notes = started(), list[str]()

    @contextmanager
    def attempt(index: int) -> Iterator[None]:
        if index == 1:
            raise PoisonError
        notes.append(f"begin {index}")
        yield
        notes.append(f"end {index}")

    paths = [files["红"], files["绿"], "/nowhere.jpg", files["蓝"]]
    result = pipeline.process(chunk(*paths), SENT_AT_S, attempt)
    assert codes(result) == [None, "poison", "not_found", None]
    assert best(result)[0] == "红"
    assert notes == [f"{what} {index}" for index in (0, 2, 3) for what in ("begin", "end")]
    assert {image.batch_size for image in result.images} == {1, None}
    assert_empty(pipeline)


def test_an_end_that_says_nothing_of_the_image_leaves_its_attempt_open(
    started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    pipeline, notes = started(), list[str]()

    @contextmanager
    def attempt(index: int) -> Iterator[None]:
        notes.append(f"begin {index}")
        if index == 1:
            raise redis.ConnectionError
        yield
        notes.append(f"end {index}")

    with pytest.raises(redis.ConnectionError):
        pipeline.process(chunk(files["红"], files["绿"], files["蓝"]), SENT_AT_S, attempt)
    assert notes == ["begin 0", "end 0", "begin 1"]
    assert_empty(pipeline)


def assert_empty(pipeline: Pipeline) -> None:
    """All room has been given back, and no more than that."""
    pipeline.capacity.take(SETTINGS.images_in_flight - 1)
    assert pipeline.capacity.is_left
    pipeline.capacity.take(1)
    assert not pipeline.capacity.is_left


def test_an_image_that_the_model_fails_on_does_not_fail_its_batch(
    started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    class Choosy(TorchScriptEngine):
        def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
            if (pixels_NCHW[:, 1] > 200).any():
                msg = "no green"
                raise RuntimeError(msg)
            return super().embed(pixels_NCHW)

    pipeline = started(load_engine=loading(Choosy))
    result = pipeline.process(chunk(*[files[label] for label in "红绿蓝红"]), SENT_AT_S)
    assert codes(result) == [None, "inference_failed", None, None]
    assert best(result) == ["红", None, "蓝", "红"]


def test_starting_twice_loads_once_and_stopping_twice_is_harmless(
    started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    loads = []

    def load(artifact: Artifact, settings: Settings) -> TorchScriptEngine:
        loads.append(settings.device)
        return TorchScriptEngine.load(artifact, settings.device)

    pipeline = started(load_engine=load)
    pipeline.start()
    assert loads == ["cpu"]
    assert best(pipeline.process(chunk(files["红"]), SENT_AT_S)) == ["红"]
    pipeline.stop()
    pipeline.stop()


def test_starting_runs_every_batch_size_that_can_come(started: Callable[..., Pipeline]) -> None:
    shapes = set()

    class Watched(TorchScriptEngine):
        def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
            shapes.add(tuple(pixels_NCHW.shape))
            return super().embed(pixels_NCHW)

    started(settings=msgspec.structs.replace(SETTINGS, max_batch=3), load_engine=loading(Watched))
    assert shapes == {(n, 3, SIDE, SIDE) for n in (1, 2, 3)}


def test_a_model_that_is_not_what_it_says_stops_the_start(
    started: Callable[..., Pipeline], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="gives 3 dimensions, its manifest says 4"):
        started(open_artifact(build(tmp_path / "odd", embedding_dim=4)))


def test_limits_of_the_settings_reach_the_stages(
    started: Callable[..., Pipeline], files: dict[str, str]
) -> None:
    few_pixels = msgspec.structs.replace(SETTINGS, max_pixels=1199)
    assert codes(started(settings=few_pixels).process(chunk(files["红"]), SENT_AT_S)) == [
        "too_many_pixels"
    ]
    elsewhere = msgspec.structs.replace(SETTINGS, image_roots=("/nowhere",))
    assert codes(started(settings=elsewhere).process(chunk(files["红"]), SENT_AT_S)) == [
        "outside_roots"
    ]


def test_fast_decoding_tags_alike(
    started: Callable[..., Pipeline], tmp_path: Path, files: dict[str, str]
) -> None:
    Image.new("RGB", (800, 600), "blue").save(tmp_path / "large.jpg")
    pipeline = started(settings=msgspec.structs.replace(SETTINGS, decode="fast"))
    sent = chunk(str(tmp_path / "large.jpg"), files["红"])
    assert best(pipeline.process(sent, SENT_AT_S)) == ["蓝", "红"]


@pytest.mark.parametrize(
    ("mode", "passed", "fast"),
    [("auto", True, True), ("auto", False, False), ("exact", True, False), ("fast", False, True)],
)
def test_jpegs_are_decoded_as_the_settings_say_or_the_manifest(
    started: Callable[..., Pipeline],
    tiny: Artifact,
    tmp_path: Path,
    mode: Any,
    passed: bool,
    fast: bool,
) -> None:
    seen: list[torch.Tensor] = []

    class Watched(TorchScriptEngine):
        def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
            seen.append(pixels_NCHW[0])
            return super().embed(pixels_NCHW)

    file = tmp_path / "large.jpg"
    file.write_bytes(photographs()[0])
    artifact = msgspec.structs.replace(
        tiny, manifest=msgspec.structs.replace(tiny.manifest, fast_decode=passed)
    )
    settings = msgspec.structs.replace(SETTINGS, decode=mode)
    pipeline = started(artifact, settings, load_engine=loading(Watched))
    assert not pipeline.process(chunk(str(file)), SENT_AT_S).failed
    expected, other = (
        decode(file.read_bytes(), tiny.manifest.preprocessing, max_pixels=10**8, fast=one)
        for one in (fast, not fast)
    )
    assert (seen[-1].numpy() == expected).all()
    assert (seen[-1].numpy() != other).any()


def test_what_the_worker_page_shows_is_plain_json(
    pipeline: Pipeline, tiny: Artifact, files: dict[str, str]
) -> None:
    pipeline.process(chunk(files["红"], "/none"), SENT_AT_S)
    shown = json.loads(json.dumps(msgspec.to_builtins(pipeline.info())))
    assert shown.pop("name")
    assert shown.pop("images_per_s") > 0
    stages = shown.pop("stages_ms")
    assert set(stages) == set(STAGES)
    assert all(0 <= of["p50"] <= of["p90"] <= of["p99"] for of in stages.values())
    assert shown.pop("version")
    assert shown.pop("image_roots")
    assert shown.pop("image_urls") == []
    assert shown == {
        "model": tiny.id,
        "device": "cpu",
        "precision": "fp32",
        "engine": "torchscript",
        "fallbacks": 0,
        "cache_hits": 0,
        "decoder": "threads",
        "decode_timeouts": 0,
        "decoder_crashes": 0,
        "problem": None,
        "out_of_memory": 0,
        "max_batch": 4,
        "has_labels": True,
        "vocabulary": "",
        "vocabulary_labels": 0,
        "vocabulary_left_out": 0,
        "notice": None,
        "images": 2,
        "failed": 1,
        "batch_sizes": {"1": 1},
        "device_memory": {},
        "device_utilisation": None,
    }
