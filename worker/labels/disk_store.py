"""Large label matrices, kept in the cache directory: encoded once on a machine, not once a Redis.

Shapes: K labels, D embedding dimensions.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from worker.artifact.cache_dir import cache_directory
from worker.contract.local.neighbours import read_neighbour
from worker.errors import NoCacheError
from worker.labels.matrix_store import LabelMatrixStore

Matrix = npt.NDArray[np.float32]

# Fewer are encoded in some seconds. Sets of single questions are smaller, as a rule.
LEAST_LABELS: Final = 1000
MOST_BYTES: Final = 512 * 1024 * 1024
_DIRECTORY: Final = "labels"
_SUFFIX: Final = ".f32"

log = structlog.get_logger()


class DiskLabelMatrixStore:
    """Matrices in files, float32 row by row, before another store; the oldest are deleted."""

    def __init__(
        self,
        store: LabelMatrixStore,
        least_labels: int = LEAST_LABELS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Take the store that is asked first, how many labels are worth a file, and the limit."""
        self._store = store
        self._least_labels = least_labels
        self._most_bytes = most_bytes

    def get(self, key: str, shape: tuple[int, int], make: Callable[[], Matrix]) -> Matrix:
        """Return the matrix KD of `key`.

        Raises:
            Exception: what the other store or `make` raised.
        """
        if shape[0] < self._least_labels:
            return self._store.get(key, shape, make)
        return self._store.get(key, shape, lambda: self._find_or_make(key, shape, make))

    def _find_or_make(self, key: str, shape: tuple[int, int], make: Callable[[], Matrix]) -> Matrix:
        name = hashlib.sha256(key.encode()).hexdigest() + _SUFFIX
        try:
            file = cache_directory() / _DIRECTORY / name
        except NoCacheError:
            return make()
        found_KD = _read(file, shape)
        if found_KD is None:
            # It may take minutes, and whoever waits for tags looks here for the reason.
            log.info("labels.encoding", labels=shape[0], kept=str(file.parent))
            found_KD = make()
            _write(file, found_KD)
            _delete_oldest(file.parent, self._most_bytes)
        return found_KD


def _read(file: Path, shape: tuple[int, int]) -> Matrix | None:
    """Return a matrix of unit rows if the file holds one of this shape."""
    size = np.dtype(np.float32).itemsize * shape[0] * shape[1]
    try:
        data = read_neighbour(file, size)
    except OSError:
        return None
    if len(data) != size:
        return None
    found_KD = np.frombuffer(data, np.float32).reshape(shape)
    lengths_K = np.linalg.norm(found_KD, axis=1)
    return found_KD if np.allclose(lengths_K, 1, atol=1e-3) else None


def _write(file: Path, matrix_KD: Matrix) -> None:
    """Keep a matrix if that is possible; another process finds all of it or nothing."""
    new = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
            new = stream.name
            stream.write(matrix_KD.tobytes())
        os.replace(new, file)  # noqa: PTH105 - a name is at hand
    except OSError as e:
        log.warning("labels.not_kept", file=str(file), error=str(e))
        if new:
            with suppress(OSError):
                Path(new).unlink()


def _delete_oldest(directory: Path, most_bytes: int) -> None:
    with suppress(OSError):
        found = [(file.stat(), file) for file in directory.glob(f"*{_SUFFIX}")]
        left = sum(status.st_size for status, _ in found)
        for status, file in sorted(found, key=lambda one: one[0].st_mtime):
            if left <= most_bytes:
                break
            file.unlink(missing_ok=True)
            left -= status.st_size
