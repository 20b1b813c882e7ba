"""`worker evaluate`: the worker's own pipeline over pictures whose labels are known."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from PIL import Image
from tiny_model import build

from worker.artifact.manifest import open_artifact
from worker.cli import main

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of red, green and blue, with an alias and a parent."""
    labels = "红 | red < 暖色\n绿 < 冷色\n蓝 < 冷色\n"
    return build(tmp_path_factory.mktemp("model") / "tiny", labels=labels)


@pytest.fixture(autouse=True)
def logs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loggers that were used keep what was configured, for all tests of this process."""
    monkeypatch.setattr("worker.monitoring.logs.configure", lambda _level: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures in folders: right, wrong, by alias and parent, unknown, without a label, broken."""
    pictures = {"红/right.png": RED, "绿/wrong.png": BLUE, "RED/alias.png": RED}
    pictures |= {"冷色/parent.png": GREEN, "紫/unknown.png": BLUE, "none.png": RED}
    for name, colour in pictures.items():
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), colour).save(file)
    (tmp_path / "photos" / "红" / "broken.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def evaluate(*argv: str | Path) -> tuple[int, str, str]:
    # On threads: what is measured does not depend on it, and processes take a second to start.
    # Nor on the size of batches, each of which is warmed up.
    environment = {"WANWU_DECODER": "threads", "WANWU_MAX_BATCH": "1"}
    arguments = ["evaluate", "--device", "cpu", *map(str, argv)]
    done = CliRunner().invoke(main, arguments, env=environment)
    return done.exit_code, done.stdout, done.stderr


def test_a_directory_is_measured_and_what_cannot_be_scored_is_named(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    code, out, err = evaluate(photos, "--model", model, "--json", report, "--html", page)
    assert code == 0, err
    assert "4 of 7 pictures are scored" in out
    assert "cannot be read: not_an_image (1)" in out
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    assert (found["pictures"], found["unlabelled"], found["not_in_set"]) == (7, 1, 1)
    assert found["unknown"] == {"紫": 1}
    assert found["failed"][0]["path"] == str(photos / "红" / "broken.jpg")
    figures = found["figures"]
    assert figures["top1"] == 3 / 4
    assert {one["label"]: one["pictures"] for one in figures["labels"]} == {
        "红": 2,
        "绿": 1,
        "冷色": 1,
    }
    assert figures["confusion"] == [{"label": "绿", "tag": "蓝", "pictures": 1}]
    (mistake,) = figures["mistakes"]
    assert mistake["path"] == str(photos / "绿" / "wrong.png")
    assert [tag["label"] for tag in mistake["tags"]] == ["蓝", "红", "绿"]
    assert page.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 1


def test_without_a_model_the_bundled_one_is_measured_by_its_own_labels(tmp_path: Path) -> None:
    (tmp_path / "猫").mkdir()
    shutil.copy(ROOT / "ops" / "examples" / "猫.jpg", tmp_path / "猫")
    code, out, err = evaluate(tmp_path)
    assert code == 0, err
    assert f"{open_artifact().id} on cpu" in out
    assert "1 of 1 pictures are scored" in out


def test_other_labels_and_a_threshold_are_those_of_the_options(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    labels, report = tmp_path / "labels.txt", tmp_path / "report.json"
    labels.write_text("红\n蓝\n", encoding="utf-8")
    table = photos / "truth.tsv"
    table.write_text("path\tlabel\n红/right.png\t红|蓝\nnone.png\t蓝\n", encoding="utf-8")
    argv = ("--model", model, "--labels", labels, "--threshold", "0.5", "--json", report)
    code, _, err = evaluate(table, *argv)
    assert code == 0, err
    found = json.loads(report.read_text(encoding="utf-8"))
    assert (found["labels"], found["figures"]["top1"]) == (2, 1 / 2)
    at = found["figures"]["at_threshold"]
    assert (at["threshold"], at["tags"], at["precision"], at["recall"]) == (0.5, 2, 1 / 2, 1 / 3)


def test_scores_are_calibrated_where_that_is_asked_for(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    code, _, err = evaluate(photos, "--model", model, "--calibrated", "--json", report)
    assert code == 0, err
    found = json.loads(report.read_text(encoding="utf-8"))
    assert (found["calibrated"], found["figures"]["at_threshold"]["threshold"]) == (True, 0.5)


def test_another_word_that_a_lexicon_reads_alike_is_the_label(tmp_path: Path) -> None:
    model = build(tmp_path / "lexicon", labels=None, lexicon=True)
    labels, report = tmp_path / "labels.txt", tmp_path / "report.json"
    labels.write_text("红\n蓝\n", encoding="utf-8")
    photos = tmp_path / "photos"
    for name in ("红红", "绿", "紫", os.fsdecode(b"\xff")):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), RED).save(photos / name / "1.png")
    code, _, err = evaluate(photos, "--model", model, "--labels", labels, "--json", report)
    assert code == 0, err
    found = json.loads(report.read_text(encoding="utf-8"))
    assert set(found["unknown"]) == {"绿", "紫", "\udcff"}
    assert [one["label"] for one in found["figures"]["labels"]] == ["红"]


def test_urls_of_a_table_need_leave_to_be_fetched(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_text("path,label\nhttps://photos.example/1.jpg,红\n", encoding="utf-8")
    code, _, err = evaluate(table, "--model", model)
    assert code == 1
    assert "https://photos.example/1.jpg is a URL: name the beginnings" in err


def test_names_of_any_bytes_are_measured(model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (tmp_path / "红").mkdir()
    Image.new("RGB", (40, 30), BLUE).save(tmp_path / "红" / name)
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    code, _, err = evaluate(tmp_path, "--model", model, "--json", report, "--html", page)
    assert code == 0, err
    (mistake,) = json.loads(report.read_text(encoding="utf-8"))["figures"]["mistakes"]
    assert mistake["path"] == str(tmp_path / "红" / name)
    assert r"\udcff.png" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        (("--labels", "nowhere.txt"), 2, "nowhere.txt"),
        (("--template", "no place"), 2, "exactly once"),
        (("--threshold", "nan"), 2, "is not a number from 0 to 1"),
        (("--truth", "captions"), 1, "no picture was scored"),
        (("--html", "nowhere/page.html"), 2, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_measured_ends_in_a_sentence(
    model: Path, photos: Path, argv: tuple[str, ...], code: int, sentence: str
) -> None:
    found, _, err = evaluate(photos, "--model", model, *argv)
    assert found == code
    assert sentence in err
    assert "Traceback" not in err


def test_a_directory_without_pictures_is_refused(model: Path, tmp_path: Path) -> None:
    code, _, err = evaluate(tmp_path, "--model", model)
    assert code == 1
    assert "no picture is in" in err
