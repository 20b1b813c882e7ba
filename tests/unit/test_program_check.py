"""A `.pt2` file holds a model's computation and no more, or is not loaded."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.engines.program_check import check_program
from worker.engines.programs import load_program, save_program
from worker.errors import ArtifactError, ExportError

CPU = torch.device("cpu")
MARK = "touched"


class Doubled(torch.nn.Module):
    """Pixels N4 -> their products with a weight, in pairs: sizes are in the graph."""

    weight: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(4.0))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels * self.weight).reshape(pixels.shape[0] * 2, 2)


class Touch:
    """What, once unpickled, writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({MARK!r}, 'w')",))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("program") / "image.pt2"
    save_program(Doubled(), (torch.ones(2, 4),), file)
    return file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_program_runs_with_any_number_of_rows(sound: Path) -> None:
    program = load_program(sound, CPU)
    for rows in (1, 2, 5):
        assert program(torch.ones(rows, 4)).tolist() == [[0, 1], [2, 3]] * rows


def test_no_path_of_the_machine_that_exported_it_is_in_the_file(sound: Path) -> None:
    with zipfile.ZipFile(sound) as archive:
        bodies = [archive.read(name) for name in archive.namelist()]
    assert not any(str(Path(__file__).parent).encode() in body for body in bodies)


def altered(sound: Path, place: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(place / "image.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return place / "image.pt2"


def expression(name: str, body: bytes) -> tuple[str, bytes]:
    return name, body.replace(
        b'"expr_str": "Symbol(', f'"expr_str": "[open({MARK!r}, chr(119)),1][1]*Symbol('.encode()
    )


def operator(name: str, body: bytes) -> tuple[str, bytes]:
    return name, body.replace(b"torch.ops.aten.mul.Tensor", b"torch.hub.load")


def handed_on(name: str, body: bytes) -> tuple[str, bytes]:
    found = b'{"as_operator": "torch.hub.load"}'
    return name, body.replace(b'{"as_tensor": {"name": "b_weight"}}', found)


def weight(name: str, body: bytes) -> tuple[str, bytes]:
    if name.endswith(("weights_config.json", "constants_config.json")):
        return name, body.replace(b'"use_pickle": false', b'"use_pickle": true')
    return (name, pickle.dumps(Touch())) if name.endswith("weight_0") else (name, body)


def example(name: str, body: bytes) -> tuple[str, bytes]:
    if not name.endswith("sample_inputs/model.pt"):
        return name, body
    buffer = io.BytesIO()
    torch.save(Touch(), buffer)
    return name, buffer.getvalue()


def constant(name: str, body: bytes) -> tuple[str, bytes]:
    return name.replace("weights/weight_0", "constants/opaque_obj_0"), body


def library(name: str, body: bytes) -> tuple[str, bytes]:
    return name.replace("weights/weight_0", "aotinductor/model/it.so"), body


@pytest.mark.parametrize(
    "change", [expression, operator, handed_on, weight, example, constant, library]
)
def test_a_file_that_could_run_code_is_refused_before_it_is_loaded(
    sound: Path, here: Path, change: Callable[[str, bytes], tuple[str, bytes]]
) -> None:
    file = altered(sound, here, change)
    assert file.read_bytes() != sound.read_bytes()
    with pytest.raises(ArtifactError, match=r"image\.pt2 of the model is no exported program"):
        load_program(file, CPU)
    assert not (here / MARK).exists()


@pytest.mark.parametrize("body", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_archive_is_one_sentence(here: Path, body: bytes) -> None:
    (here / "image.pt2").write_bytes(body)
    with pytest.raises(ArtifactError, match=r"^image\.pt2 of the model is no exported[^\n]+$"):
        check_program(here / "image.pt2")


def test_a_graph_that_is_no_graph_is_one_sentence(sound: Path, here: Path) -> None:
    def emptied(name: str, body: bytes) -> tuple[str, bytes]:
        return name, json.dumps({}).encode() if name.endswith("models/model.json") else body

    with pytest.raises(ArtifactError, match=r"cannot load image\.pt2 of the model: [^\n]+$"):
        load_program(altered(sound, here, emptied), CPU)


class Deciding(torch.nn.Module):
    """Its result depends on what pixels are, which no graph can hold."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels if bool(pixels.any()) else pixels + 1


def test_what_torch_cannot_export_is_one_sentence(here: Path) -> None:
    with pytest.raises(ExportError, match=r"^image\.pt2 cannot be exported: [^\n]+$"):
        save_program(Deciding(), (torch.ones(2, 4),), here / "image.pt2")
