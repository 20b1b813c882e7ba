"""Pixels of Pillow's images without a copy: the same ones, for as long as they are used."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_S, ROOT
from images import picture
from PIL import Image, _imaging

from worker.images.image_memory import keep_in_one_piece, pixels_of, shown


@pytest.fixture(autouse=True)
def blocks() -> Iterator[None]:
    before = _imaging.get_block_size()
    keep_in_one_piece(10**7)
    yield
    _imaging.set_block_size(before)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7), (101, 33), (2500, 1900)])
def test_the_pixels_are_those_that_numpy_sees(mode: str, size: tuple[int, int]) -> None:
    image = picture(1, size=size).convert(mode)
    pixels = pixels_of(image)
    assert pixels.ndim == (2 if mode == "L" else 3)
    assert np.array_equal(shown(pixels), np.asarray(image))


def test_nothing_is_copied() -> None:
    image = picture(2).convert("RGB")
    before = pixels_of(image)
    image.putpixel((3, 2), (1, 2, 3))
    assert shown(before)[2, 3].tolist() == [1, 2, 3]
    assert not before.flags.writeable


def test_the_memory_lives_as_long_as_the_array() -> None:
    image = picture(3, size=(700, 500)).convert("RGB")
    expected = np.asarray(image)
    pixels = shown(pixels_of(image))
    del image
    gc.collect()
    others = [Image.new("RGB", (700, 500), "red") for _ in range(8)]
    assert np.array_equal(pixels, expected)
    assert len(others) == 8


def test_an_image_in_several_pieces_is_copied() -> None:
    _imaging.set_block_size(4096)
    image = picture(4, size=(300, 200)).convert("RGB")
    pixels = pixels_of(image)
    assert pixels.shape == (200, 300, 3)
    assert np.array_equal(pixels, np.asarray(image))


def test_what_is_lent_otherwise_than_is_known_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(5).convert("RGB")
    for lent in (Image.new("RGB", (1, 1)), Image.new("L", image.size)):
        monkeypatch.setattr(image, "__arrow_c_array__", lent.__arrow_c_array__)
        assert np.array_equal(pixels_of(image), np.asarray(image))


QUIET = """
import sys
from worker.artifact.manifest import open_artifact
from worker.images.decode import decode
decode(open(sys.argv[1], "rb").read(), open_artifact().manifest.preprocessing, max_pixels=10**8)
"""


def test_a_program_that_decodes_is_not_warned_of_what_nobody_writes_to(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    picture(3, size=(800, 600)).save(file)
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(file)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
