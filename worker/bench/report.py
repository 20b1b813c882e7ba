"""Figures -> a table for people, JSON for programs, and a chart."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from worker.bench.figures import BATCHES, Figure
from worker.bench.subjects import PLAIN, WITH_TEXT
from worker.bench.tune import Rate
from worker.contract.cpus import usable_cpus
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.rounding import figure
from worker.engines.base import device_name

_COLOURS: Final = {
    "transformers": "#9a9a9a",
    "eager": "#c9a227",
    "torchscript": "#1f77b4",
    "exported": "#9467bd",
    "compile": "#2ca02c",
    "onnx": "#d1495b",
}
_DOTS_PER_INCH: Final = 120
_COLUMNS: Final = (
    *(N_("subject"), N_("batch"), "ms", "10-90 %", N_("ms/image"), N_("images/s")),
    *(N_("vs text"), N_("vs plain (rounds)"), N_("cosine"), "top-1", "MB", N_("calls")),
)


def table(figures: Sequence[Figure], console: Console) -> None:
    """Print all figures; what could not be measured says why."""
    grid = Table(title=_("Milliseconds of a call, median; ratios at the same batch size"))
    for name in _COLUMNS:
        grid.add_column(_(name), justify="left" if name == "subject" else "right")
    for one in figures:
        if one.problem is not None:
            grid.add_row(one.subject, str(one.batch), one.problem)
            continue
        grid.add_row(
            *(one.subject, str(one.batch), figure(one.median_ms, 1)),
            f"{figure(one.p10_ms, 1)}-{figure(one.p90_ms, 1)}",
            *(figure(one.ms_per_image, 1), figure(one.images_per_s, 1)),
            *(_times(one.versus_text), _with_range(one), f"{one.cosine:.5f}"),
            *(f"{one.top1:.1%}", figure(one.memory_mb), f"{one.runs} / {one.rounds}"),
        )
    console.print(grid)
    console.print(
        _(
            "vs text: against '{text}'; vs plain: against '{plain}', both fp32: the median of the "
            "rounds' ratios, and the lowest and the highest of them. Cosine and top-1 are against "
            "'{plain}', of the worst image and of all. Calls are those of all rounds / the rounds."
        ).format(text=WITH_TEXT, plain=PLAIN)
    )


def rates_table(rates: Sequence[Rate], best: Rate, console: Console) -> None:
    """Print what each batch size gives, and mark the one that is proposed."""
    grid = Table(title=_("Milliseconds of a call, median"))
    for name in ("batch", "ms", "ms/image", "images/s", ""):
        grid.add_column(_(name), justify="right")
    for one in rates:
        figures = (figure(one.ms, 1), figure(one.ms / one.batch, 2), figure(one.images_per_s, 1))
        grid.add_row(str(one.batch), *figures, _("proposed") if one is best else "")
    console.print(grid)


def markdown(figures: Sequence[Figure]) -> str:
    """Return the figures as a table for a document."""
    lines = [
        "| | batch | ms/image | images/s | vs text | vs plain (rounds) | cosine | top-1 | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in figures:
        if one.problem is not None:
            lines.append(f"| {one.subject} | {one.batch} | {one.problem} | | | | | | |")
            continue
        cells = [
            *(one.subject, str(one.batch)),
            *(figure(one.ms_per_image, 1), figure(one.images_per_s, 1)),
            *(_times(one.versus_text), _with_range(one), f"{one.cosine:.5f}"),
            *(f"{one.top1:.1%}", figure(one.memory_mb)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_json(figures: Sequence[Figure], about: dict[str, Any]) -> str:
    """Return the figures with what they were measured on; `about` is what else there is to say."""
    content = {**about, "machine": machine(), "figures": msgspec.to_builtins(figures)}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def write_whole(file: Path, text: str) -> None:
    """Write a file that others may read at any time: they find the old one or the new one."""
    if file.is_symlink() or (file.exists() and not file.is_file()):
        # Such as /dev/stdout, which is not to be replaced.
        file.write_text(text, encoding="utf-8")
        return
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def machine() -> dict[str, Any]:
    """Return what the figures depend on beside the model."""
    cpus = usable_cpus()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": device_name(torch.device("cpu")),
        "cores": cpus.usable,
        "cores_limit": f"{cpus.limit}, {cpus.there} there" if cpus.limit else "",
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def chart(figures: Sequence[Figure], title: str, file: Path) -> None:
    """Draw milliseconds an image as bars, one group a subject, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure as Sheet  # noqa: PLC0415

    measured = [one for one in figures if one.problem is None]
    names = list(dict.fromkeys(one.subject for one in measured))
    sheet = Sheet(figsize=(9, 1.2 + 0.55 * len(names)), layout="constrained")
    FigureCanvasAgg(sheet)
    axes = sheet.add_subplot()
    height = 0.8 / len(BATCHES)
    for one in measured:
        place = names.index(one.subject) + (BATCHES.index(one.batch) - 0.5) * height
        colour = _COLOURS[one.subject.partition(" ")[0].rstrip(",")]
        strength = 0.45 + 0.55 * BATCHES.index(one.batch) / (len(BATCHES) - 1)
        axes.barh(place, one.ms_per_image, height * 0.92, color=colour, alpha=strength)
        label = f" {figure(one.ms_per_image, 1)} ms"
        label += f"  ({one.versus_eager:.1f}x)" if one.versus_eager else ""
        axes.text(one.ms_per_image, place, label, va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("milliseconds an image, lower is better: pale batch 1, full batch 4")
    axes.set_title(title, fontsize=10, loc="left")
    sheet.savefig(file, dpi=_DOTS_PER_INCH)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _with_range(one: Figure) -> str:
    """Return the ratio to transformers, with the lowest and the highest of the rounds."""
    if one.versus_eager_range is None:
        return ""
    least, most = one.versus_eager_range
    return f"{_times(one.versus_eager)} ({least:.2f}-{most:.2f})"
