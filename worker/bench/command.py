"""Options of `worker bench` -> figures printed and written, however early it is stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.console import Console

from worker.artifact.manifest import Artifact
from worker.bench.figures import BATCHES, Figure, Measurements
from worker.bench.report import (
    as_json,
    chart,
    machine,
    markdown,
    rates_table,
    table,
    write_whole,
)
from worker.bench.run import LABELS, ROUNDS, Plan, measure
from worker.bench.tune import SIZES, propose, rates
from worker.contract.i18n import gettext as _
from worker.contract.rounding import figure
from worker.contract.settings import Settings
from worker.contract.stops import Stopped, stoppable
from worker.engines.base import resolve_device
from worker.engines.choose import open_engine
from worker.engines.tuned_batch import remember
from worker.export.on_first_use import open_model
from worker.images.decode import set_up
from worker.malloc import disable_malloc_trim
from worker.model.precision import Precision

# Wide enough for every column when the output is no terminal.
_COLUMNS: Final = 150


class Request(NamedTuple):
    """The options of the command, beside the settings."""

    labels: tuple[str, ...]
    images: tuple[Path, ...]
    engines: tuple[str, ...]
    precisions: tuple[Precision, ...]
    runs: int
    seconds: float
    json_file: Path | None
    markdown_file: Path | None
    chart_file: Path | None


def run(request: Request, settings: Settings, echo: Callable[[str], None]) -> int:
    """Measure, print the table to standard output, write the files that were asked for.

    A signal that asks to stop does not lose what has been measured by then; the JSON file is whole
    after each round. Returns the exit code.

    Raises:
        TaggerError: the model, the device or a library cannot be used.
    """
    found = Measurements()
    artifact: Artifact | None = None

    def after_round(number: int) -> None:
        echo(_summary(found.figures(), number))
        if artifact:
            _write_json(request, settings, artifact, found)

    code = 0
    try:
        with stoppable():
            set_up(settings.max_pixels)
            artifact = open_model(settings, echo)
            plan = _plan(request)
            measure(artifact, settings, plan, found, echo=echo, after_round=after_round)
    except Stopped as e:
        line = _("stopped: {rounds} of {all} rounds are complete")
        if not found.began:
            line = _("stopped before anything was measured: {rounds} of {all} rounds are complete")
        echo(line.format(rounds=found.rounds, all=ROUNDS))
        code = e.exit_code
    if artifact and found.subjects:
        _hand_over(request, settings, artifact, found)
    return code


def _plan(request: Request) -> Plan:
    return Plan(
        labels=request.labels or LABELS,
        images=tuple(_files(request.images)),
        engines=request.engines,
        precisions=request.precisions,
        runs=request.runs,
        seconds=request.seconds,
    )


def _hand_over(
    request: Request, settings: Settings, artifact: Artifact, found: Measurements
) -> None:
    figures = found.figures()
    console = Console()
    table(figures, console if console.is_terminal else Console(width=_COLUMNS))
    _write_json(request, settings, artifact, found)
    if request.markdown_file:
        write_whole(request.markdown_file, markdown(figures))
    if request.chart_file:
        where = machine()["gpu"] if _device(settings).startswith("cuda") else _cpu()
        chart(figures, f"{artifact.id} on {where}", request.chart_file)


def _write_json(
    request: Request, settings: Settings, artifact: Artifact, found: Measurements
) -> None:
    if request.json_file:
        about = {
            "model": artifact.id,
            "device": _device(settings),
            "rounds": found.rounds,
            "of_rounds": ROUNDS,
        }
        write_whole(request.json_file, as_json(found.figures(), about))


def _device(settings: Settings) -> str:
    return str(resolve_device(settings.device, "fp32"))


def _summary(figures: Sequence[Figure], number: int) -> str:
    """Return a line on the largest batch so far, for somebody who waits."""
    shown = (
        f"{one.subject} {figure(one.ms_per_image, 1)} ms"
        for one in figures
        if one.batch == max(BATCHES) and one.problem is None
    )
    line = _("after round {number}, per image in batches of {batch}: {figures}")
    return line.format(number=number, batch=max(BATCHES), figures=", ".join(shown))


def tune(request: Request, settings: Settings, echo: Callable[[str], None]) -> int:
    """Measure batch sizes, print them, and store the best one for `worker start`.

    Returns the exit code; a signal that asks to stop leaves what was stored before.

    Raises:
        TaggerError: the model or the device cannot be used.
    """
    try:
        with stoppable():
            _tune(request, settings, echo)
    except Stopped as e:
        return e.exit_code
    return 0


def _tune(request: Request, settings: Settings, echo: Callable[[str], None]) -> None:
    disable_malloc_trim()
    artifact = open_model(settings, echo)
    spec = artifact.manifest.preprocessing
    engine = open_engine(artifact, settings)
    found = rates(engine, (3, spec.height, spec.width), request.seconds / len(SIZES), echo=echo)
    best = propose(found)
    console = Console()
    rates_table(found, best, console if console.is_terminal else Console(width=_COLUMNS))
    file = remember(settings, artifact, best.batch)
    line = _("remembered in {file}: `worker start` has batches of up to {batch} here")
    echo(line.format(file=file, batch=best.batch))
    if request.json_file:
        content = {
            "model": artifact.id,
            "engine": engine.name,
            "device": engine.device,
            "machine": machine(),
            "proposed": best.batch,
            "batches": [
                {**msgspec.to_builtins(one), "images_per_s": one.images_per_s} for one in found
            ],
        }
        write_whole(request.json_file, json.dumps(content, indent=1) + "\n")


def _cpu() -> str:
    found = machine()
    limit = f" ({found['cores_limit']})" if found["cores_limit"] else ""
    return f"{found['processor']}, {found['cores']} cores{limit}"


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(file for file in place.rglob("*") if file.is_file())
        else:
            yield place
