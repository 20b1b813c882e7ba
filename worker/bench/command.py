"""What `worker bench` asks for -> figures printed and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console

from worker.bench.report import as_json, chart, machine, markdown, table
from worker.bench.run import LABELS, Effort, measure
from worker.contract.settings import Settings
from worker.decode import set_up
from worker.engines.base import resolve_device
from worker.models.cache import open_model

# Wide enough for every column when the output is no terminal.
_COLUMNS: Final = 140


class Request(NamedTuple):
    """The options of the command, beside the settings."""

    labels: tuple[str, ...]
    images: tuple[Path, ...]
    runs: int
    seconds: float
    json_file: Path | None
    markdown_file: Path | None
    chart_file: Path | None


def run(request: Request, settings: Settings, say: Callable[[str], None]) -> None:
    """Measure, print the table to standard output, write the files that were asked for.

    Raises:
        TaggerError: the model, the device or a library cannot be used.
    """
    set_up(settings.max_pixels)
    artifact = open_model(settings, say)
    figures = measure(
        artifact,
        settings,
        Effort(request.runs, request.seconds),
        labels=request.labels or LABELS,
        images=list(_files(request.images)),
        say=say,
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


def _cpu() -> str:
    found = machine()
    return f"{found['processor']}, {found['cores']} cores"


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(file for file in place.rglob("*") if file.is_file())
        else:
            yield place
