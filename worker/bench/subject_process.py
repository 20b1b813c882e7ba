"""One subject in a process of its own, so that its memory and its allocator are its own.

Shapes: N images, C channels, H x W pixels, D embedding dimensions.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from worker.artifact.manifest import Artifact
from worker.bench.figures import BATCHES
from worker.bench.subjects import Run, Subject, open_subject
from worker.contract.i18n import gettext_noop as N_
from worker.contract.settings import Settings
from worker.contract.stops import STOPS
from worker.errors import TaggerError

WARM_UPS: Final = 5
_GRACE_S: Final = 10.0
_MB: Final = 1e6


class Refused(TaggerError):  # noqa: N818 - a sentence for the table, not a fault
    """A subject cannot be measured here; `str()` says why."""


class SubjectSpec(NamedTuple):
    """What a process gets: its subject, the artifact in its precision, and the inputs.

    `cache` is for files that are made to measure, and of no use later.
    """

    subject: Subject
    artifact: Artifact
    labels: tuple[str, ...]
    settings: Settings
    pixels_NCHW: npt.NDArray[np.uint8]
    cache: str


class Warmed(NamedTuple):
    """What a subject makes of the inputs, rows ND, and the median time of such calls by batch."""

    rows: npt.NDArray[np.float32]
    ms: dict[int, float]


class SubjectProcess:
    """A process with a loaded subject that measures on request, for the life of a `with` block."""

    def __init__(self, spec: SubjectSpec) -> None:
        """Take what is measured; nothing is started yet."""
        context = multiprocessing.get_context("spawn")
        self.subject = spec.subject
        self._spec = spec
        self._here, self._there = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._there,), daemon=True)

    def __enter__(self) -> Self:
        """Start the process and return at once; `warmed` waits until it is warm."""
        with _stops_held_back():
            self._process.start()
        self._there.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        if kind is None:
            self._here.close()
            self._process.join(_GRACE_S)
        # A signal that asks to stop would not end it.
        self._process.kill()
        self._process.join(_GRACE_S)
        self._here.close()

    def warmed(self) -> Warmed:
        """Return what the subject makes of the inputs, and how long that takes at first.

        Raises:
            Refused: it cannot be run.
        """
        found: Warmed = self._ask(self._spec)
        return found

    def times_ms(self, batch: int, runs: int, seconds: float) -> list[float]:
        """Return the time of each call: `runs` calls, or as many as fit into `seconds`.

        Raises:
            Refused: the process has ended.
        """
        times: list[float] = self._ask((batch, runs, seconds))
        return times

    def memory_mb(self) -> float:
        """Return what the process holds: GPU memory on CUDA, else resident memory.

        Raises:
            Refused: the process has ended.
        """
        memory: float = self._ask(None)
        return memory

    def _ask(self, question: object) -> Any:
        # One that has ended is found out by its answer.
        with suppress(ConnectionError):
            self._here.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._here.recv()
        except (EOFError, ConnectionError) as e:
            raise Refused(N_("its process ended without a word, perhaps for want of memory")) from e
        if isinstance(answer, str):
            raise Refused(answer)
        return answer


@contextmanager
def _stops_held_back() -> Iterator[None]:
    """Start what is started in the block deaf to SIGINT and SIGTERM, which come here after it.

    Terminals, and `timeout`, send them to all processes of a command; this one has the figures,
    and ends the others.
    """
    # It would let them through again if it were started inside.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """Load what is asked for first, and answer with its rows; then measure on request.

    It ends when the other end is closed.
    """
    try:
        spec = pipe.recv()
    except EOFError:
        return
    os.environ["XDG_CACHE_HOME"] = spec.cache
    try:
        run = open_subject(spec.subject, spec.artifact, spec.labels, spec.settings)
        pixels_NCHW = torch.from_numpy(spec.pixels_NCHW)
        pipe.send(warm_up(run, pixels_NCHW))
    except Exception as e:  # noqa: BLE001 - whatever keeps it from running belongs in the table
        pipe.send(str(e).strip().partition("\n")[0] or repr(e))
        return
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        pipe.send(_memory_mb() if asked is None else _measure(run, pixels_NCHW, *asked))


def warm_up(run: Run, pixels_NCHW: torch.Tensor) -> Warmed:
    """Run all inputs in the largest batches, and some in each smaller one."""
    largest, ms = max(BATCHES), {}
    for batch in BATCHES:
        count = len(pixels_NCHW) if batch == largest else batch * WARM_UPS
        rows, times_ms = [], []
        for inputs in torch.split(pixels_NCHW[:count], batch):
            began_s = time.perf_counter()
            rows.append(run(inputs).cpu().numpy())
            times_ms.append((time.perf_counter() - began_s) * 1000)
        ms[batch] = median(times_ms)
    return Warmed(np.concatenate(rows), ms)


def _measure(run: Run, pixels_NCHW: torch.Tensor, batch: int, runs: int, s: float) -> list[float]:
    """Time calls on changing images; results are awaited on the CPU, as a worker needs them."""
    times_ms: list[float] = []
    batches = [pixels_NCHW[n : n + batch] for n in range(0, len(pixels_NCHW) - batch + 1, batch)]
    for number in range(WARM_UPS):
        run(batches[number % len(batches)]).cpu()
    ends_s = time.perf_counter() + s
    while len(times_ms) < runs and time.perf_counter() < ends_s:
        began_s = time.perf_counter()
        run(batches[len(times_ms) % len(batches)]).cpu()
        times_ms.append((time.perf_counter() - began_s) * 1000)
    return times_ms


def _memory_mb() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_reserved() / _MB
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB
