"""worker.bench: every engine beside transformers, in turns, with nothing left out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import LONG, ROOT
from hub_models import save
from images import encoded, picture
from PIL import Image
from tiny_model import build

from worker.bench.figures import Figure
from worker.bench.subjects import PLAIN, WITH_TEXT, subjects
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
    assert plain.versus_text == pytest.approx(text.median_ms / plain.median_ms)
    with Image.open(files["png"]) as chart:
        assert chart.format == "PNG"
        assert chart.width > 600


def test_a_model_without_transformers_weights_cannot_be_compared(tmp_path: Path) -> None:
    code, _, err = bench("--model", str(build(tmp_path / "tiny")))
    assert code == 1
    assert "error: model tiny@" in err
    assert "holds no transformers/config.json" in err


def test_int8_is_not_compiled_and_bf16_not_given_to_onnx() -> None:
    names = [one.name for one in subjects(("fp32", "bf16", "int8"), has_text=True)]
    assert names[:2] == [WITH_TEXT, PLAIN]
    assert {"onnx int8", "compile bf16", "torchscript int8"} <= set(names)
    assert not {"onnx bf16", "compile int8"} & set(names)


def test_a_classifier_has_no_text_to_measure() -> None:
    assert subjects(("fp32",), has_text=False)[0].name == PLAIN


def test_engines_can_be_chosen_and_stand_beside_the_baselines() -> None:
    found = subjects(("fp32", "fp16"), has_text=True, engines=("torchscript", "eager"))
    assert [one.name for one in found] == [
        *(WITH_TEXT, PLAIN, "eager fp32", "eager fp16", "torchscript fp32", "torchscript fp16")
    ]
