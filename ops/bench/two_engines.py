"""Compare the engines torchscript and exported on one artifact each, in turns: a table.

    python ops/bench/two_engines.py [--aoti] [MODEL ...]

Models of full size with random weights: a Chinese-CLIP B/16 in fp32 and int8, a ResNet-50. Each is
exported for both engines. Times are ratios of torchscript to the other, the median of rounds and
all of them in brackets: of the wall's clock, and of the CPU time of all threads, which other
programs on the machine disturb less. With --aoti the exported program is also compiled by
AOTInductor, for this processor and with its weights frozen, which takes a minute and a compiler.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from full_size import save
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from worker.artifact.manifest import TOWERS, Artifact, open_artifact
from worker.contract.settings import Settings
from worker.engines.base import Engine, Synchronous, use_threads
from worker.engines.choose import LOADERS
from worker.engines.cpu_streams import Streams
from worker.export.on_first_use import export_to
from worker.export.paired import ratios
from worker.export.tracing import pixels

MODELS: Final = ("b16-fp32", "b16-int8", "resnet50-fp32")
BATCHES: Final = (1, 4)
_MB: Final = 1e6


class Compiled(Synchronous):
    """An exported program that AOTInductor compiled; networks of convolutions in streams."""

    name, device = "aoti", "cpu"

    def __init__(self, file: Path, *, in_streams: bool) -> None:
        self._module: Any = torch._inductor.aoti_load_package(str(file))  # noqa: SLF001
        self._streams = Streams(self._run, torch.get_num_threads()) if in_streams else None

    def _run(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            rows_ND: torch.Tensor = self._module(pixels_NCHW)
        return rows_ND

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return rows ND."""
        return self._streams.launch(pixels_NCHW)() if self._streams else self._run(pixels_NCHW)


def save_resnet(directory: Path) -> Path:
    """Write a ResNet-50 with random weights, as the hub would hand it out."""
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig()).save_pretrained(directory)
    ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(directory)
    return directory


def export(name: str, place: Path) -> Artifact:
    """Export a model for both engines."""
    kind, _, precision = name.partition("-")
    source = place / kind
    if not source.exists():
        (save if kind == "b16" else save_resnet)(source)
    settings = Settings.from_env(model=str(source), precision=precision, device="cpu")
    return open_artifact(export_to(place / name, settings, None, lambda _: None, tuple(TOWERS)))


def lines(name: str, artifact: Artifact, *, aoti: bool) -> Iterator[str]:
    """Yield the rows of the table about a model."""
    first = LOADERS["torchscript"](artifact, "cpu")
    began_s = time.process_time()
    others: list[tuple[str, Engine, Path]] = []
    program = artifact.file(TOWERS["exported"])
    others.append(("exported", LOADERS["exported"](artifact, "cpu"), program))
    notes = [f"loaded in {time.process_time() - began_s:.1f} s of CPU"]
    if aoti and not name.endswith("int8"):
        began_s = time.perf_counter()
        file = _compiled(program)
        notes.append(f"compiled in {time.perf_counter() - began_s:.0f} s")
        others.append(("AOTInductor", Compiled(file, in_streams=name.startswith("res")), file))
    for (title, other, file), note in zip(others, notes, strict=True):
        for batch in BATCHES:
            images_NCHW = pixels(max(BATCHES), 224, 224)[:batch]
            apart = (other.embed(images_NCHW) - first.embed(images_NCHW)).abs().max()
            clocks = (time.perf_counter, time.process_time)
            wall, cpu = (_shown(ratios(first, other, images_NCHW, clock)) for clock in clocks)
            size = f"{file.stat().st_size / _MB:.0f}"
            yield f"| {name} | {title} | {batch} | {wall} | {cpu} | {apart:.1e} | {size} | {note} |"


def _compiled(program: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Path(
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - the documented way
                torch.export.load(program),
                package_path=str(program.with_suffix(".aoti.pt2")),
                inductor_configs={"freezing": True},
            )
        )


def _shown(found: list[float]) -> str:
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--aoti", action="store_true", help="compile the program, too")
    options = parser.parse_args()
    use_threads(Settings())
    say = partial(print, flush=True)
    say("| model | engine | batch | times torchscript, wall | CPU | apart | MB | |")
    say("|---|---|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in options.models:
            for line in lines(name, export(name, Path(place)), aoti=options.aoti):
                say(line)


if __name__ == "__main__":
    main()
