"""Options of `worker bench` -> figures printed and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.console import Console

from worker.bench.report import as_json, chart, machine, markdown, rates_table, table
from worker.bench.run import LABELS, Effort, measure
from worker.bench.tune import SIZES, propose, rates
from worker.contract.i18n import gettext as _
from worker.contract.settings import Settings
from worker.engines.base import resolve_device
from worker.engines.choose import open_engine
from worker.engines.tuned_batch import remember
from worker.export.on_first_use import open_model
from worker.images.decode import set_up
from worker.malloc import disable_malloc_trim

# Wide enough for every column when the output is no terminal.
_COLUMNS: Final = 140


class Request(NamedTuple):
    """The options of the command, beside the settings."""

    labels: tuple[str, ...]
    images: tuple[Path, ...]
    engines: tuple[str, ...]
    runs: int
    seconds: float
    json_file: Path | None
    markdown_file: Path | None
    chart_file: Path | None


def run(request: Request, settings: Settings, echo: Callable[[str], None]) -> None:
    """Measure, print the table to standard output, write the files that were asked for.

    Raises:
        TaggerError: the model, the device or a library cannot be used.
    """
    set_up(settings.max_pixels)
    artifact = open_model(settings, echo)
    figures = measure(
        artifact,
        settings,
        Effort(request.runs, request.seconds),
        labels=request.labels or LABELS,
        images=list(_files(request.images)),
        engines=request.engines,
        echo=echo,
    )
    console = Console()
    table(figures, console if console.is_terminal else Console(width=_COLUMNS))
    device = str(resolve_device(settings.device, "fp32"))
    if request.json_file:
        request.json_file.write_text(as_json(figures, artifact.id, device), encoding="utf-8")
    if request.markdown_file:
        request.markdown_file.write_text(markdown(figures), encoding="utf-8")
    if request.chart_file:
        where = machine()["gpu"] if device.startswith("cuda") else _cpu()
        chart(figures, f"{artifact.id} on {where}", request.chart_file)


def tune(request: Request, settings: Settings, echo: Callable[[str], None]) -> None:
    """Measure batch sizes, print them, and store the best one for `worker start`.

    Raises:
        TaggerError: the model or the device cannot be used.
    """
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
        request.json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
