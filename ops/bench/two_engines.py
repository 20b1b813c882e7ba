"""Compare the engines torchscript and exported, in turns: a table.

    python ops/bench/two_engines.py [--aoti] [MODEL ...]

Image towers of full size with random weights: a Chinese-CLIP B/16 in fp32 and int8, a ResNet-50.
Each is exported for both engines. Times are ratios of torchscript to the other, the median of
rounds, and the least and largest: of the wall's clock, and of the CPU time of all threads, which
other programs on the machine disturb less. With --aoti the exported program is also compiled by
AOTInductor, for this processor and with its weights frozen, which takes a minute and a compiler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from full_size import parts
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from worker.artifact.manifest import TOWERS, Preprocessing
from worker.contract.scoring import Scale
from worker.contract.settings import Settings
from worker.engines.base import Engine, Synchronous, use_threads
from worker.engines.cpu_streams import Streams
from worker.export.judgement import Judge
from worker.export.paired import ratios
from worker.export.second_engine import Trial, open_exported
from worker.export.tracing import BATCHES as TRIED
from worker.export.tracing import pixels
from worker.export.variant import Jury, variant
from worker.model.precision import ACCEPTED, Precision
from worker.model.rewrite import for_inference
from worker.model.sample import batches_of, sample
from worker.model.towers import ClassifierTower, ImageTower

MODELS: Final[dict[str, tuple[str, Precision]]] = {
    "b16-fp32": ("b16", "fp32"),
    "b16-int8": ("b16", "int8"),
    "resnet50-fp32": ("resnet50", "fp32"),
}
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


def tower_of(kind: str) -> nn.Module:
    """Return an image tower in float32, rewritten for inference."""
    torch.manual_seed(0)
    middle = (0.5, 0.5, 0.5)
    if kind == "b16":
        return for_inference(ImageTower(parts()[0].eval(), middle, middle).eval())
    model = ResNetForImageClassification(ResNetConfig()).eval()
    return for_inference(ClassifierTower(model, middle, middle).eval())


def export(name: str, place: Path) -> dict[str, tuple[Engine, Path]]:
    """Export a tower for both engines; return what runs each, and its file."""
    kind, precision = MODELS[name]
    tower = tower_of(kind)
    inputs = pixels(max(TRIED), 224, 224)
    with torch.no_grad():
        reference_ND = tower(inputs)
    place.mkdir()
    trial = Trial(place, inputs, reference_ND, partial(print, file=sys.stderr))
    made_of = variant(tower, precision, torch.device("cpu"), _jury(tower))
    found: dict[str, tuple[Engine, Path]] = {}
    for engine, file_name in TOWERS.items():
        made = trial.make(engine, made_of)
        trial.echo(f"{engine}: {made}")
        file = made.file.rename(place / file_name)
        found[engine] = (open_exported(engine, place, inputs.device, precision), file)
    return found


def _jury(tower: nn.Module) -> Jury:
    pictures = sample(Preprocessing(height=224, width=224), None)
    with torch.no_grad():
        wanted_ND = torch.cat([tower(batch) for batch in batches_of(pictures.judged_by)])
    return Jury(pictures, Judge(wanted_ND, Scale(1.0), None, is_classifier=False), ACCEPTED)


def lines(name: str, made: dict[str, tuple[Engine, Path]], *, aoti: bool) -> Iterator[str]:
    """Yield the rows of the table about a model."""
    first, _ = made["torchscript"]
    others = {"exported": (*made["exported"], "")}
    if aoti and not name.endswith("int8"):
        began_s = time.perf_counter()
        file = _compiled(made["exported"][1])
        note = f"compiled in {time.perf_counter() - began_s:.0f} s"
        others["AOTInductor"] = (Compiled(file, in_streams=name.startswith("res")), file, note)
    for title, (other, file, note) in others.items():
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
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--aoti", action="store_true", help="compile the program, too")
    options = parser.parse_args()
    use_threads(Settings())
    say = partial(print, flush=True)
    say("| model | engine | batch | times torchscript, wall | CPU | apart | MB | |")
    say("|---|---|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in options.models:
            for line in lines(name, export(name, Path(place) / name), aoti=options.aoti):
                say(line)


if __name__ == "__main__":
    main()
