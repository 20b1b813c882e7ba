"""What an export asks of precisions below float32: pictures, judges, and speed in turns."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hub_models import save
from images import encoded, picture
from torch import Tensor

from worker.artifact.manifest import Preprocessing, open_artifact
from worker.cli import main
from worker.contract.scoring import Scale
from worker.contract.settings import Settings
from worker.errors import ExportError
from worker.export.gate import Gate
from worker.export.judgement import Judge
from worker.export.on_first_use import export_to
from worker.model.sample import sample

SPEC = Preprocessing(height=32, width=48)


def test_the_pictures_that_ship_are_of_use() -> None:
    found = sample(SPEC, None)
    assert found.calibrated_on.shape == (12, 3, 32, 48)
    assert found.judged_by.shape == (36, 3, 32, 48)
    assert found.calibrated_on.dtype == found.judged_by.dtype == torch.uint8
    # Nobody is judged by what it was calibrated on.
    rows = {bytes(one.numpy()) for one in found.calibrated_on}
    assert not rows & {bytes(one.numpy()) for one in found.judged_by}


def test_pictures_of_the_user_and_those_that_are_none(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(number, (60, 40))))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(encoded(picture(9, (60, 40)))[:300])
    said: list[str] = []
    found = sample(SPEC, tmp_path, said.append)
    assert len(found.calibrated_on) == 5
    assert len(found.judged_by) == 4 * 3
    assert len(said) == 2


def test_of_much_that_is_no_picture_a_few_are_named(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("no picture")
    said: list[str] = []
    with pytest.raises(ExportError, match="has 0 pictures"):
        sample(SPEC, tmp_path, said.append)
    assert len(said) == 6
    assert said[-1] == "and 25 more are passed over"


def test_too_few_pictures_are_told(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(encoded(picture(1, (60, 40))))
    with pytest.raises(ExportError, match="has 1 pictures that can be decoded; at least 8"):
        sample(SPEC, tmp_path)


def judge(wanted_ND: Tensor, *, texts_KD: Tensor | None = None) -> Judge:
    return Judge(wanted_ND, Scale(20.0), texts_KD, is_classifier=False)


def unit(*rows: tuple[float, ...]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def test_a_first_label_that_changes_refuses_a_precision() -> None:
    texts = torch.eye(3)
    wanted = unit((1.0, 0.7, 0.0), (0.0, 1.0, 0.0))
    other = unit((0.7, 1.0, 0.0), (0.0, 1.0, 0.0))
    found = judge(wanted, texts_KD=texts).judge(other)
    assert (found.decided, found.same) == (2, 1)
    assert found.moved > 0.5
    assert not found.agrees(0.5)
    assert judge(wanted, texts_KD=texts).judge(wanted).agrees()
    # Without labels there is the cosine alone.
    assert judge(wanted).judge(other).agrees(0.9)


def test_pictures_that_could_be_either_do_not_count() -> None:
    texts = torch.eye(3)
    wanted, other = unit((1.0, 0.999, 0.0)), unit((0.999, 1.0, 0.0))
    found = judge(wanted, texts_KD=texts).judge(other)
    assert (found.decided, found.same) == (0, 0)
    assert found.agrees()


def test_rows_that_are_no_numbers_agree_with_nothing() -> None:
    wanted = unit((1.0, 0.0))
    assert not judge(wanted).judge(torch.full((1, 2), torch.nan)).agrees(0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("hub") / "chinese_clip", "chinese_clip")


def exported(model: Path, out: Path, gate: Gate | None = None) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    settings = Settings(model=str(model), precision="int8", device="cpu")
    export_to(out, settings, None, said.append, (), gate)
    open_artifact(out)
    return json.loads((out / "manifest.json").read_text()), said


def test_the_manifest_says_what_was_found(model: Path, tmp_path: Path) -> None:
    manifest, said = exported(model, tmp_path / "int8", Gate(accepted=0.99))
    parity = manifest["parity"]
    assert manifest["precision"] == "int8"
    assert parity["judged_views"] == 36
    assert parity["judged_min_cosine"] >= 0.99
    assert parity["accepted_cosine"] == 0.99
    assert any("calibrating on 12 pictures, judging by 36 views of others" in one for one in said)


def test_a_precision_that_is_not_near_enough_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not agree with the model: int8: cosine"):
        exported(model, tmp_path / "int8", Gate(accepted=1.0))
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize("engine", ["torchscript", "exported"])
def test_a_full_disk_is_told_and_nothing_is_left(model: Path, tmp_path: Path, engine: str) -> None:
    """Torch's own writer ended the process."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        settings = Settings(model=str(model), precision="fp32", device="cpu")
        with pytest.raises(ExportError, match="cannot be written: the disk is full"):
            export_to(place / "out", settings, None, lambda _: None, (engine,))
        assert not list(place.iterdir())
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("value", ["nan", "1.0", "0.5", "much"])
def test_what_cannot_be_accepted_is_refused(value: str) -> None:
    argv = ["export", "--model", "x", "--accept", value]
    assert CliRunner().invoke(main, argv).exit_code == 2
