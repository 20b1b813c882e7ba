"""Label matrices in the cache directory: found again, and never trusted blindly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import structlog

from worker.labels.disk_store import DiskLabelMatrixStore
from worker.labels.matrix_store import NoLabelMatrixStore

SHAPE = (3, 4)
UNIT_KD = np.eye(3, 4, dtype=np.float32)


class Making:
    """Counts how often a matrix is made."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> npt.NDArray[np.float32]:
        self.times += 1
        return UNIT_KD


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wanwu-tagger" / "labels"


@pytest.fixture
def store() -> DiskLabelMatrixStore:
    return DiskLabelMatrixStore(NoLabelMatrixStore(), least_labels=3)


def test_a_matrix_is_made_once_on_a_machine(cache: Path, store: DiskLabelMatrixStore) -> None:
    make = Making()
    with structlog.testing.capture_logs() as said:
        for _ in range(2):
            assert np.array_equal(store.get("model:set", SHAPE, make), UNIT_KD)
    assert make.times == 1
    # Before it is made, which may take long.
    assert [(one["event"], one["labels"]) for one in said] == [("labels.encoding", 3)]
    store.get("model:other", SHAPE, make)
    assert make.times == 2
    assert len([*cache.iterdir()]) == 2


def test_small_sets_are_worth_no_file(cache: Path, store: DiskLabelMatrixStore) -> None:
    make = Making()
    store.get("model:set", (2, 4), make)
    assert make.times == 1
    assert not cache.exists()


@pytest.mark.parametrize("body", [b"", b"x" * 47, b"x" * 49, b"\0" * 48, b"\xff" * 48])
def test_a_file_that_holds_something_else_is_made_anew(
    cache: Path, store: DiskLabelMatrixStore, body: bytes
) -> None:
    make = Making()
    store.get("model:set", SHAPE, make)
    (file,) = cache.iterdir()
    file.write_bytes(body)
    assert np.array_equal(store.get("model:set", SHAPE, make), UNIT_KD)
    assert make.times == 2
    assert file.read_bytes() == UNIT_KD.tobytes()


def test_without_a_place_to_keep_it_the_matrix_is_made(
    cache: Path, store: DiskLabelMatrixStore
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file in the way")
    make = Making()
    assert np.array_equal(store.get("model:set", SHAPE, make), UNIT_KD)
    assert make.times == 1


def test_the_oldest_are_deleted(cache: Path) -> None:
    store = DiskLabelMatrixStore(NoLabelMatrixStore(), 3, most_bytes=2 * UNIT_KD.nbytes + 1)
    for number in range(5):
        store.get(str(number), SHAPE, Making())
    assert len([*cache.iterdir()]) == 2
    make = Making()
    store.get("4", SHAPE, make)
    assert make.times == 0
