"""Artifact -> measurements: every subject loaded beside the others, and measured in turns.

In turns, because a machine is not equally fast all the time: each figure is gathered over the same
minutes as those that it is compared with. Shapes: N images, C channels, H x W.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from worker.artifact.manifest import Artifact
from worker.bench.figures import BATCHES, Measurements, Rows, agreement
from worker.bench.subject_process import Refused, SubjectProcess, SubjectSpec
from worker.bench.subjects import has_text_tower, subjects
from worker.contract.failure_sentences import image_sentence
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.settings import Settings
from worker.engines.base import resolve_device
from worker.errors import ArtifactError, DeviceError, ExportError, ImageError
from worker.images.decode import decode
from worker.model.precision import Precision, supported

ROUNDS: Final = 5
LABELS: Final = ("动物", "植物", "交通工具", "电子产品", "食物", "自然景观")
_IMAGES: Final = 64
_MAX_PIXELS: Final = 10**9
Echo = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True):
    """What is measured and for how long, for each subject and batch size: `runs` or `seconds`.

    With `engines` or `precisions`, of those alone, beside the baselines.
    """

    labels: tuple[str, ...] = LABELS
    images: tuple[Path, ...] = ()
    engines: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    runs: int = 100
    seconds: float = 30.0


def measure(
    artifact: Artifact,
    settings: Settings,
    plan: Plan,
    found: Measurements,
    *,
    echo: Echo = lambda _: None,
    after_round: Callable[[int], None] = lambda _: None,
) -> None:
    """Measure every subject in turns, into `found`; `echo` is called with the steps.

    `after_round` is called with the number of each round that is complete. Whatever ends this
    early, `found` keeps what has been measured.

    Raises:
        ArtifactError: the artifact does not hold transformers' own weights.
        DeviceError: there is no such device.
    """
    device = resolve_device(settings.device, "fp32")
    settings = msgspec.structs.replace(settings, device=str(device))
    precisions = plan.precisions or supported(device)
    has_text = has_text_tower(artifact)
    found.subjects = subjects(precisions, has_text=has_text, engines=plan.engines)
    pixels_NCHW = _inputs(artifact, plan.images, echo)
    with tempfile.TemporaryDirectory(prefix="wanwu-bench-") as directory, ExitStack() as stack:
        wanted = {one.precision for one in found.subjects}
        made = _variants(artifact, wanted, Path(directory), settings, echo)
        for one in found.subjects:
            if isinstance(reply := made[one.precision], str):
                found.problems[one.name] = reply
        specs = (
            SubjectSpec(one, variant, plan.labels, settings, pixels_NCHW, directory)
            for one in found.subjects
            if not isinstance(variant := made[one.precision], str)
        )
        started = (stack.enter_context(SubjectProcess(one)) for one in specs)
        processes, rows = _loaded(started, found, echo)
        found.agreement = agreement(rows, artifact, plan.labels)
        _in_turns(processes, plan, found, echo, after_round)


def _loaded(
    candidates: Iterator[SubjectProcess], found: Measurements, echo: Echo
) -> tuple[dict[str, SubjectProcess], dict[str, Rows]]:
    """Return by name the processes that could load, and their rows ND; note why others did not."""
    processes: dict[str, SubjectProcess] = {}
    rows: dict[str, Rows] = {}
    for process in _one_ahead(candidates):
        name = process.subject.name
        echo(_("loading {model}").format(model=name))
        try:
            rows[name], found.warm_up_ms[name] = process.warmed()
            processes[name] = process
        except Refused as e:
            found.problems[name] = str(e)
    return processes, rows


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
    # Only now: transformers takes seconds to load. It loads triton, too, which would print pages
    # when the process ends if it had been frozen (`importing`), and so never cleaned up.
    from worker.export.reprecision import reprecision  # noqa: PLC0415

    found: dict[Precision, Artifact | str] = {}
    for precision in sorted(precisions):
        echo(_("tracing {model} in {precision}").format(model=artifact.id, precision=precision))
        try:
            device = resolve_device(settings.device, precision)
            found[precision] = reprecision(artifact, precision, directory / precision, device)
        except (DeviceError, ExportError) as e:
            found[precision] = str(e)
    return found


def _inputs(artifact: Artifact, images: Sequence[Path], echo: Echo) -> npt.NDArray[np.uint8]:
    """Return what all subjects are given, uint8 NCHW: the images, or pictures made up."""
    spec = artifact.manifest.preprocessing
    if not images:
        from worker.export.tracing import pixels  # noqa: PLC0415 - as in `_variants`

        made_up: npt.NDArray[np.uint8] = pixels(_IMAGES, spec.height, spec.width).numpy()
        return made_up
    decoded = []
    for file in images:
        try:
            decoded.append(decode(file.read_bytes(), spec, max_pixels=_MAX_PIXELS))
        except ImageError as e:
            line = _("{file} is passed over: {reason}")
            echo(line.format(file=file, reason=image_sentence(e.code, str(e))))
        if len(decoded) == _IMAGES:
            break
    if not decoded:
        raise ArtifactError(N_("there is no image that can be decoded among those given"))
    repeats = -(-max(BATCHES) // len(decoded))
    return np.stack(decoded * repeats)


def _in_turns(
    processes: dict[str, SubjectProcess],
    plan: Plan,
    found: Measurements,
    echo: Echo,
    after_round: Callable[[int], None],
) -> None:
    """Gather the times of each subject and batch size over several rounds."""
    runs, seconds = -(-plan.runs // ROUNDS), plan.seconds / ROUNDS
    for number in range(1, ROUNDS + 1):
        for batch in BATCHES:
            line = _("round {number} of {rounds}, batch {batch}")
            echo(line.format(number=number, rounds=ROUNDS, batch=batch))
            for name, process in processes.items():
                if name in found.problems:
                    continue
                try:
                    found.add(name, batch, process.times_ms(batch, runs, seconds))
                    found.memory_mb[name] = process.memory_mb()
                except Refused as e:
                    # It ended, perhaps for want of memory: the others have what it leaves.
                    found.problems[name] = str(e)
        after_round(number)
