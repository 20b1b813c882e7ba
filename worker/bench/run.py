"""Artifact -> figures: every subject loaded beside the others, and measured in turns.

In turns, because a machine is not equally fast all the time: each figure is gathered over the same
minutes as those that it is compared with. Shapes: N images, C channels, H x W, K labels, D.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from worker.artifact.manifest import Artifact
from worker.bench.subject_process import Refused, SubjectProcess, SubjectSpec
from worker.bench.subjects import PLAIN, WITH_TEXT, Subject, subjects
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.labels import LabelPack
from worker.contract.settings import Settings
from worker.engines.base import resolve_device
from worker.errors import ArtifactError, ExportError, ImageError
from worker.export.reprecision import reprecision
from worker.export.tracing import pixels
from worker.images.decode import decode
from worker.labels.encoder import encoder_of
from worker.model.precision import Precision, supported

BATCHES: Final = (1, 4)
ROUNDS: Final = 5
LABELS: Final = ("动物", "植物", "交通工具", "电子产品", "食物", "自然景观")
_IMAGES: Final = 64
_MAX_PIXELS: Final = 10**9
Echo = Callable[[str], None]
Rows = npt.NDArray[np.float32]


class Effort(msgspec.Struct, frozen=True):
    """How long is measured, for each subject and batch size: so many calls, or so many seconds."""

    runs: int = 100
    seconds: float = 30.0


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a subject at a batch size, or why it could not be measured.

    Times are of a call. `versus_text` and `versus_eager` are how many times as fast it is as the
    baselines. `cosine` is the worst image's, `top1` the share of images with the same best label,
    both against transformers in fp32.
    """

    subject: str
    batch: int
    problem: str | None = None
    runs: int = 0
    median_ms: float = 0.0
    p10_ms: float = 0.0
    p90_ms: float = 0.0
    ms_per_image: float = 0.0
    images_per_s: float = 0.0
    versus_text: float | None = None
    versus_eager: float | None = None
    cosine: float = 0.0
    top1: float = 0.0
    memory_mb: float = 0.0


def measure(
    artifact: Artifact,
    settings: Settings,
    effort: Effort,
    *,
    labels: tuple[str, ...] = LABELS,
    images: Sequence[Path] = (),
    engines: tuple[str, ...] = (),
    echo: Echo = lambda _: None,
) -> list[Figure]:
    """Return the figures of every subject, in the table's order; `echo` is called with the steps.

    With `engines` of those alone, beside the baselines.

    Raises:
        ArtifactError: the artifact does not hold transformers' own weights.
        DeviceError: there is no such device.
    """
    device = resolve_device(settings.device, "fp32")
    settings = msgspec.structs.replace(settings, device=str(device))
    has_text = artifact.manifest.kind == "zero-shot"
    wanted = subjects(supported(device), has_text=has_text, engines=engines)
    pixels_NCHW = _inputs(artifact, images, echo)
    with tempfile.TemporaryDirectory(prefix="wanwu-bench-") as directory, ExitStack() as stack:
        made = _variants(
            artifact, {one.precision for one in wanted}, Path(directory), settings, echo
        )
        problems = {
            one.name: found for one in wanted if isinstance(found := made[one.precision], str)
        }
        specs = (
            SubjectSpec(one, found, labels, settings, pixels_NCHW, directory)
            for one in wanted
            if not isinstance(found := made[one.precision], str)
        )
        processes, rows, refused = _loaded(
            (stack.enter_context(SubjectProcess(one)) for one in specs), echo
        )
        times = _in_turns(processes, effort, echo)
        memory = {name: process.memory_mb() for name, process in processes.items()}
    agreement = _agreement(rows, artifact, labels)
    return _figures(wanted, problems | refused, times, memory, agreement)


def _loaded(
    candidates: Iterator[SubjectProcess], echo: Echo
) -> tuple[dict[str, SubjectProcess], dict[str, Rows], dict[str, str]]:
    """Return by name the processes that could load, their rows ND, and why others could not."""
    processes: dict[str, SubjectProcess] = {}
    rows: dict[str, Rows] = {}
    refused: dict[str, str] = {}
    for process in _one_ahead(candidates):
        name = process.subject.name
        echo(_("loading {model}").format(model=name))
        try:
            rows[name] = process.rows()
            processes[name] = process
        except Refused as e:
            refused[name] = str(e)
    return processes, rows, refused


def _one_ahead(processes: Iterator[SubjectProcess]) -> Iterator[SubjectProcess]:
    """Start the next process while one loads: most of loading is one thread's work."""
    waiting = next(processes, None)
    while waiting is not None:
        following = next(processes, None)
        yield waiting
        waiting = following


def _variants(
    artifact: Artifact,
    precisions: set[Precision],
    directory: Path,
    settings: Settings,
    echo: Echo,
) -> dict[Precision, Artifact | str]:
    """Return the artifact in each precision, or why there is none."""
    found: dict[Precision, Artifact | str] = {}
    for precision in sorted(precisions):
        echo(_("tracing {model} in {precision}").format(model=artifact.id, precision=precision))
        device = resolve_device(settings.device, precision)
        try:
            found[precision] = reprecision(artifact, precision, directory / precision, device)
        except ExportError as e:
            found[precision] = str(e)
    return found


def _inputs(artifact: Artifact, images: Sequence[Path], echo: Echo) -> npt.NDArray[np.uint8]:
    """Return what all subjects are given, uint8 NCHW: the images, or pictures made up."""
    spec = artifact.manifest.preprocessing
    if not images:
        made_up: npt.NDArray[np.uint8] = pixels(_IMAGES, spec.height, spec.width).numpy()
        return made_up
    decoded = []
    for file in images:
        try:
            decoded.append(decode(file.read_bytes(), spec, max_pixels=_MAX_PIXELS))
        except ImageError as e:
            echo(_("{file} is passed over: {reason}").format(file=file, reason=_(str(e))))
        if len(decoded) == _IMAGES:
            break
    if not decoded:
        raise ArtifactError(N_("there is no image that can be decoded among those given"))
    repeats = -(-max(BATCHES) // len(decoded))
    return np.stack(decoded * repeats)


def _in_turns(
    processes: dict[str, SubjectProcess], effort: Effort, echo: Echo
) -> dict[tuple[str, int], list[float]]:
    """Return the times of each subject and batch size, gathered over several rounds."""
    times: dict[tuple[str, int], list[float]] = {}
    runs, seconds = -(-effort.runs // ROUNDS), effort.seconds / ROUNDS
    for number in range(1, ROUNDS + 1):
        for batch in BATCHES:
            line = _("round {number} of {rounds}, batch {batch}")
            echo(line.format(number=number, rounds=ROUNDS, batch=batch))
            for name, process in processes.items():
                found = process.times_ms(batch, runs, seconds)
                times.setdefault((name, batch), []).extend(found)
    return times


def _agreement(
    rows: dict[str, Rows], artifact: Artifact, labels: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    """Return each subject's worst cosine to transformers, and how often the best label is one."""
    if PLAIN not in rows:
        return {}
    if artifact.manifest.kind == "zero-shot":
        texts_KD = encoder_of(artifact, "cpu").encode(LabelPack(labels=labels)).matrix_KD
    else:
        texts_KD = np.eye(rows[PLAIN].shape[1], dtype=np.float32)
    wanted = rows[PLAIN].astype(np.float64)
    best = (rows[PLAIN] @ texts_KD.T).argmax(axis=1)
    found = {}
    for name, one in rows.items():
        given = one.astype(np.float64)
        lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = float(((given * wanted).sum(axis=1) / lengths).min())
        found[name] = (cosine, float(((one @ texts_KD.T).argmax(axis=1) == best).mean()))
    return found


def _figures(
    wanted: list[Subject],
    problems: dict[str, str],
    times: dict[tuple[str, int], list[float]],
    memory: dict[str, float],
    agreement: dict[str, tuple[float, float]],
) -> list[Figure]:
    figures = []
    for subject in wanted:
        for batch in BATCHES:
            name = subject.name
            if name in problems:
                figures.append(Figure(subject=name, batch=batch, problem=problems[name]))
                continue
            taken_ms = times[name, batch]
            middle_ms = median(taken_ms)
            cosine, top1 = agreement.get(name, (0.0, 0.0))
            figures.append(
                Figure(
                    subject=name,
                    batch=batch,
                    runs=len(taken_ms),
                    median_ms=middle_ms,
                    p10_ms=float(np.percentile(taken_ms, 10)),
                    p90_ms=float(np.percentile(taken_ms, 90)),
                    ms_per_image=middle_ms / batch,
                    images_per_s=1000 * batch / middle_ms,
                    versus_text=_ratio(times.get((WITH_TEXT, batch)), middle_ms),
                    versus_eager=_ratio(times.get((PLAIN, batch)), middle_ms),
                    cosine=cosine,
                    top1=top1,
                    memory_mb=memory[name],
                )
            )
    return figures


def _ratio(baseline_ms: list[float] | None, ms: float) -> float | None:
    return median(baseline_ms) / ms if baseline_ms else None
