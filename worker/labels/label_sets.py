"""What labels are once they are encoded, and the sets that a worker keeps.

Shapes: K labels, D embedding dimensions.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.contract.labels import LabelPack
from worker.contract.scoring import Background, Kinds
from worker.errors import LabelsAlikeError

Matrix = npt.NDArray[np.float32]

# 20,000 labels of 512 dimensions are 40 MB.
_SETS_KEPT: Final = 16


class LabelSet(NamedTuple):
    """Labels and their unit embeddings, row k for label k, C-contiguous float32.

    `parents` are those of the labels, and of their parents in turn. With a background, each label
    is scored by itself against that. A kind counts where no label is certain.
    `left_out` labels of a vocabulary and words of a background the model cannot read, or not tell
    from others.
    """

    labels: tuple[str, ...]
    matrix_KD: Matrix
    parents: Mapping[str, str] = MappingProxyType({})
    background: Background | None = None
    kinds: Kinds | None = None
    left_out: int = 0


class LabelCache:
    """Label sets by the hash of their pack; the least recently used are dropped first."""

    def __init__(self, encode: Callable[[LabelPack], LabelSet]) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        self._sets: OrderedDict[str, Future[LabelSet]] = OrderedDict()

    def get(self, key: str, fetch: Callable[[], LabelPack]) -> LabelSet:
        """Return the set of `key`; its pack is fetched and encoded once, however many threads ask.

        Raises:
            Exception: what `fetch` or the encoder raised; the next to ask tries again.
        """
        with self._lock:
            found = self._sets.get(key)
            future: Future[LabelSet] = found or self._sets.setdefault(key, Future())
            self._sets.move_to_end(key)
            if len(self._sets) > _SETS_KEPT:
                self._sets.popitem(last=False)
        if found is None:
            # Outside the lock: threads that ask for another set do not wait for this one.
            self._fill(key, future, fetch)
        try:
            return future.result()
        except LabelsAlikeError as e:
            # One that is raised again and again would grow by each place that it came through.
            raise LabelsAlikeError(str(e)) from None

    def _fill(self, key: str, future: Future[LabelSet], fetch: Callable[[], LabelPack]) -> None:
        try:
            future.set_result(self._encode(fetch()))
        except BaseException as e:  # noqa: BLE001 - threads that wait for the set get the reason
            # Labels that are alike stay so: nobody need find that out again for each chunk.
            if not isinstance(e, LabelsAlikeError):
                with self._lock:
                    self._sets.pop(key, None)
            future.set_exception(e)
