"""worker.bench: every engine beside transformers, in turns, with nothing left out."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
import pytest
from click.testing import CliRunner
from conftest import LONG, PATIENCE_S, ROOT, environment
from hub_models import save
from images import encoded, picture
from PIL import Image
from tiny_model import build

from worker.artifact.manifest import open_artifact
from worker.bench.figures import Figure
from worker.bench.subjects import PLAIN, WITH_TEXT, has_text_tower, subjects
from worker.cli import main


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("hub") / "chinese_clip", "chinese_clip")


def bench(*argv: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["bench", "--device", "cpu", *argv])
    return done.exit_code, done.stdout, done.stderr


@LONG
def test_every_engine_and_precision_is_measured_beside_transformers(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    models = (ROOT / "ops" / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    (command,) = (line for line in models if line.startswith("worker bench --model "))
    as_written = shlex.split(command.replace("--model chinese-clip", f"--model {hub}"))[2:]
    photo = tmp_path / "photos" / "one.jpg"
    photo.parent.mkdir()
    photo.write_bytes(encoded(picture(3, (320, 240))))
    (tmp_path / "photos" / "notes.txt").write_text("no image", encoding="utf-8")
    files = {kind: tmp_path / f"bench.{kind}" for kind in ("json", "png", "md")}
    code, out, err = bench(
        *as_written,
        *("--runs", "10", "--seconds", "5", "--images", "photos"),
        *("--markdown", "bench.md", "--label", "猫", "--label", "狗"),
        # `compile` takes a minute to warm up: its agreement is tested with the engines.
        *("--engine", "eager", "--engine", "torchscript", "--engine", "onnx"),
    )
    assert code == 0, err
    assert "notes.txt is passed over" in err
    report = json.loads(files["json"].read_text(encoding="utf-8"))
    figures = [Figure(**one) for one in report["figures"]]
    wanted = {WITH_TEXT, PLAIN, "eager fp32", "torchscript fp32", "onnx fp32"}
    assert {one.subject for one in figures} >= wanted
    assert {one.batch for one in figures} == {1, 4}
    for one in figures:
        assert one.subject in files["md"].read_text(encoding="utf-8")
        if one.problem is not None:
            assert one.problem in out.replace("\n", " ")
            continue
        assert 0 < one.p10_ms <= one.median_ms <= one.p90_ms
        assert one.ms_per_image == pytest.approx(one.median_ms / one.batch)
        assert one.memory_mb > 50
        if one.subject.endswith("fp32"):
            assert one.cosine >= 0.99999
            assert one.top1 == 1
    plain = next(one for one in figures if (one.subject, one.batch) == (PLAIN, 4))
    text = next(one for one in figures if (one.subject, one.batch) == (WITH_TEXT, 4))
    assert plain.versus_eager == 1
    of_rounds = [t / p for t, p in zip(text.round_ms, plain.round_ms, strict=True)]
    assert plain.versus_text == pytest.approx(median(of_rounds))
    assert plain.versus_text_range == pytest.approx((min(of_rounds), max(of_rounds)))
    assert (report["rounds"], report["of_rounds"]) == (5, 5)
    with Image.open(files["png"]) as chart:
        assert chart.format == "PNG"
        assert chart.width > 600


@LONG
@pytest.mark.integration
def test_what_was_measured_before_a_stop_is_shown_and_written(tmp_path: Path) -> None:
    classifier = save(tmp_path / "vit", "vit")
    argv = ["bench", "--device", "cpu", "--model", str(classifier), "--json", "bench.json"]
    argv += ["--markdown", "bench.md", "--engine", "torchscript", "--precision", "fp32"]
    # Each round takes two seconds.
    argv += ["--runs", "1000000", "--seconds", "2.5"]
    running = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", *argv],
        cwd=tmp_path,
        env=environment() | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    with running:
        said = ""
        for line in running.stderr:
            said += line
            if "round 2 of 5, batch 1" in line:
                # The file is whole while others are measured.
                report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
                assert report["rounds"] == 1
                # As a terminal and `timeout` do it: every process of the command is meant.
                os.killpg(running.pid, signal.SIGTERM)
        assert running.stdout is not None
        out = running.stdout.read()
        assert running.wait(PATIENCE_S) == 143, said
    assert "after round 1, per image in batches of 4: transformers " in said
    assert "stopped: 1 of 5 rounds are complete" in said
    assert "Traceback" not in said
    # Libraries that are loaded clean up after themselves, and have nothing to say of it.
    assert "nanobind" not in said
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    figures = [Figure(**one) for one in report["figures"]]
    assert {(one.subject, one.problem) for one in figures} == {
        *((PLAIN, None), ("torchscript fp32", None))
    }
    assert all(one.rounds >= 1 and one.cosine > 0.999 for one in figures)
    for text in (out, (tmp_path / "bench.md").read_text(encoding="utf-8")):
        assert all(one.subject in text for one in figures)
    ends_s = time.monotonic() + PATIENCE_S
    while any(is_of(one, running.pid) for one in psutil.process_iter()):
        assert time.monotonic() < ends_s
        time.sleep(0.05)


def is_of(process: psutil.Process, session: int) -> bool:
    """Whether a process is one of the command's, and still there."""
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.NoSuchProcess):
        return False


def test_a_model_without_transformers_weights_cannot_be_compared(tmp_path: Path) -> None:
    code, _, err = bench("--model", str(build(tmp_path / "tiny")))
    assert code == 1
    assert "error: model tiny@" in err
    assert "holds no transformers/config.json" in err


def test_int8_is_not_compiled_and_bf16_not_given_to_onnx() -> None:
    names = [one.name for one in subjects(("fp32", "bf16", "int8"), has_text=True)]
    assert names[:2] == [WITH_TEXT, PLAIN]
    assert {"onnx int8", "compile bf16", "torchscript int8", "exported int8"} <= set(names)
    assert not {"onnx bf16", "compile int8"} & set(names)


def test_a_classifier_has_no_text_to_measure() -> None:
    assert subjects(("fp32",), has_text=False)[0].name == PLAIN


def test_engines_can_be_chosen_and_stand_beside_the_baselines() -> None:
    found = subjects(("fp32", "fp16"), has_text=True, engines=("torchscript", "eager"))
    assert [one.name for one in found] == [
        *(WITH_TEXT, PLAIN, "eager fp32", "eager fp16", "torchscript fp32", "torchscript fp16")
    ]


def test_texts_are_measured_where_transformers_embeds_them(tmp_path: Path) -> None:
    assert has_text_tower(open_artifact(build(tmp_path / "tiny")))
    assert not has_text_tower(open_artifact())
