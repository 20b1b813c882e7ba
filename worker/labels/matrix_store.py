"""Label matrices, encoded once by one worker and shared with all through Redis.

Shapes: K labels, D embedding dimensions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import redis
import structlog

from worker.contract.keys import DEFAULT_KEYS, Keys

if TYPE_CHECKING:
    from redis.lock import Lock

Matrix = npt.NDArray[np.float32]

# Of a matrix whose label pack is not in Redis: labels of a model, or words of a background.
TTL_S: Final = 30 * 86_400
# A worker that dies while it encodes holds the others up for this long. Ten thousand labels take a
# large text tower some minutes on two cores, so the worker that encodes renews its lock.
LOCK_S: Final = 10.0
_RENEWALS: Final = 4
POLL_S: Final = 0.2

log = structlog.get_logger()


class LabelMatrixStore(Protocol):
    """Where label matrices are stored between jobs and workers."""

    def get(self, key: str, shape: tuple[int, int], make: Callable[[], Matrix]) -> Matrix:
        """Return the matrix KD of `key`; it is made and stored if it does not exist yet."""


class NoLabelMatrixStore:
    """For a worker on its own: every matrix is made here."""

    def get(self, key: str, shape: tuple[int, int], make: Callable[[], Matrix]) -> Matrix:  # noqa: ARG002
        """Return what `make` makes."""
        return make()


class RedisLabelMatrixStore:
    """Matrices in Redis, float32 row by row. While one worker makes one, the others wait for it.

    A key ends in the hash of a label pack. A matrix is kept as long as its pack: a set of a single
    image is soon forgotten, however many of them there are.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys = DEFAULT_KEYS,
        *,
        poll_s: float = POLL_S,
        lock_s: float = LOCK_S,
        on_wait: Callable[[], object] = lambda: None,
    ) -> None:
        """Take where they are; `on_wait` is called often while another worker makes one."""
        self._keys = keys
        self._client = client
        self._poll_s = poll_s
        self._lock_s = lock_s
        self._on_wait = on_wait

    def get(self, key: str, shape: tuple[int, int], make: Callable[[], Matrix]) -> Matrix:
        """Return the matrix KD of `key`.

        Raises:
            redis.RedisError: Redis is away.
            Exception: what `make` raised; workers that wait then try for themselves.
        """
        name = self._keys.matrix(key)
        while (found_KD := self._find(name, shape)) is None:
            lock = self._client.lock(f"{name}:lock", timeout=self._lock_s, thread_local=False)
            if not lock.acquire(blocking=False):
                self._on_wait()
                time.sleep(self._poll_s)
                continue
            with _renewed(lock, self._lock_s / _RENEWALS):
                # Between the look and the lock another may have finished.
                found_KD = self._find(name, shape)
                return self._make(name, make, key) if found_KD is None else found_KD
        self._prolong(name, key)
        return found_KD

    def _find(self, name: str, shape: tuple[int, int]) -> Matrix | None:
        """Return the matrix if it is there and has this shape."""
        found: Any = self._client.get(name)
        if found is None or len(found) != np.dtype(np.float32).itemsize * shape[0] * shape[1]:
            return None
        return np.frombuffer(found, np.float32).reshape(shape)

    def _life_s(self, key: str) -> int:
        """Return for how many seconds more the label pack of a key is kept."""
        left_s: Any = self._client.ttl(self._keys.labels(key.rpartition(":")[2]))
        return left_s if left_s > 0 else TTL_S

    def _prolong(self, name: str, key: str) -> None:
        """Keep a matrix as long as its pack, which may have been used again since."""
        left_s: Any = self._client.ttl(name)
        if left_s < (life_s := self._life_s(key)):
            self._client.expire(name, life_s)

    def _make(self, name: str, make: Callable[[], Matrix], key: str) -> Matrix:
        began_s = time.monotonic()
        matrix_KD = make()
        self._client.set(name, matrix_KD.tobytes(), ex=self._life_s(key))
        log.info("labels.encoded", labels=len(matrix_KD), s=round(time.monotonic() - began_s, 3))
        return matrix_KD


@contextmanager
def _renewed(lock: Lock, pause_s: float) -> Iterator[None]:
    """Keep a lock that was acquired; release it at the end, unless it was lost meanwhile."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(pause_s):
            # Without the lock two encode the same: slower, and right.
            with suppress(redis.RedisError):
                lock.reacquire()

    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(redis.RedisError):
            lock.release()
