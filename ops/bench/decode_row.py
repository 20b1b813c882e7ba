"""A row of decode_scaling.py: a decoder as a worker has it, on some cores, in a new process."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import psutil
from decode_processes import decode_all
from kernel_counts import Counts, counts, shootdowns

import worker.images.decoder
from worker.artifact.manifest import Preprocessing, open_artifact
from worker.contract.settings import Settings
from worker.images.decode import Pixels
from worker.images.decoder import Decoder
from worker.images.isolated.fork_server import fork_early
from worker.images.open_decoder import open_decoder
from worker.malloc import disable_malloc_trim

PROCESSES: Final = "processes"
# As many a decoder as a worker holds.
_HELD: Final = 4
_WARM_S: Final = 0.5
# A row takes some seconds; one that takes so long has failed.
_PATIENCE_S: Final = 300.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What a row measures: so many decoders of a kind, on these CPUs, for some seconds a turn.

    Decoders that pretend wait for so many milliseconds instead of decoding: they need no cores, so
    what is left is how fast images are handed out and taken back.
    """

    kind: str
    decoders: int
    cpus: tuple[int, ...]
    seconds: float
    exact: bool = False
    pretend_ms: float = 0.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A case with its rate; all else is of one image."""

    case: Case
    images_per_s: float
    decoders: Counts
    worker: Counts
    shootdowns: float

    @property
    def cost(self) -> Counts:
        """What decoding costs: in processes of its own, or in the worker's."""
        return self.decoders if self.case.kind == PROCESSES else self.worker

    @property
    def idle(self) -> float:
        """For what share of the time a decoder had nothing to do, and did not wait for a core."""
        had_ms = 1000 * self.case.decoders / self.images_per_s
        used_ms = self.cost.cpu_ms + self.cost.waited_ms + self.case.pretend_ms
        return max(0.0, 1 - used_ms / had_ms)


def in_order(cpus: Sequence[int]) -> list[int]:
    """Return logical CPUs, the first thread of every physical core before the second of any."""
    seen: dict[str, int] = {}
    ranked = []
    for cpu in sorted(cpus):
        core = _core_of(cpu)
        ranked.append((seen.get(core, 0), cpu))
        seen[core] = seen.get(core, 0) + 1
    return [cpu for _, cpu in sorted(ranked)]


def physical(cpus: Sequence[int]) -> int:
    """Return how many physical cores these are threads of."""
    return len({_core_of(cpu) for cpu in cpus})


def _core_of(cpu: int) -> str:
    file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def measure(case: Case, paths: Sequence[str]) -> Row:
    """Return a row. To be called in a process of its own: it stays on these CPUs."""
    os.sched_setaffinity(0, case.cpus)
    wanted = {"decode_threads": case.decoders, "decode": "exact" if case.exact else "fast"}
    settings = Settings.from_env({}, image_roots=("/",), decoder=case.kind, **wanted)
    disable_malloc_trim()
    if case.pretend_ms:
        # What the decoders call: nothing else is changed.
        vars(worker.images.decoder)["decode"] = _pretending(case.pretend_ms / 1000)
    if case.kind == PROCESSES:
        fork_early()
    decoder = open_decoder(settings, open_artifact().manifest, lambda: None)
    decoder.launch()
    decoder.start()
    try:
        return _measured(decoder, case, paths)
    finally:
        decoder.stop()


def _pretending(seconds: float) -> Callable[..., Pixels]:
    def wait(_: bytes, spec: Preprocessing, **_options: object) -> Pixels:
        time.sleep(seconds)
        return np.zeros((3, spec.height, spec.width), np.uint8)

    return wait


def _measured(decoder: Decoder, case: Case, paths: Sequence[str]) -> Row:
    held = case.decoders * _HELD
    decode_all(decoder, paths, _WARM_S, held)
    this = [os.getpid()]
    others = [child.pid for child in psutil.Process().children(recursive=True)]
    before, interrupts = (counts(this), counts(others)), shootdowns()
    began_s = time.perf_counter()
    rate = decode_all(decoder, paths, case.seconds, held)
    images = round(rate * (time.perf_counter() - began_s))
    return Row(
        case=case,
        images_per_s=rate,
        worker=counts(this).since(before[0], images),
        decoders=counts(others).since(before[1], images),
        shootdowns=(shootdowns() - interrupts) / images,
    )


def in_new_process(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a function returns in a new process, which has everything loaded already."""
    return begun(work, *args, **options)()


def begun(work: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
    """Begin a function in a new process; return what waits for its result.

    That raises EOFError if the process has failed, or takes minutes.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(work(*args, **options)))
    child.start()
    theirs.close()

    def wait() -> Any:
        try:
            if not ours.poll(_PATIENCE_S):
                child.kill()
            return ours.recv()
        finally:
            child.join()

    return wait
