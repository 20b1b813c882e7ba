"""Which benches there are: how each is run, quickly or in full, and what of it is shown."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from suite.show import Chart, Table

HERE: Final = Path(__file__).resolve().parents[1]
QUICK, FULL = "quick", "full"
RANDOM: Final = "random weights, of the size of Chinese-CLIP B/16, unless the table says otherwise"
OUTLIERS: Final = "random weights with outliers put in, of the size of Chinese-CLIP B/16"
BUNDLED: Final = "the bundled model, trained weights"
SMALL: Final = "random weights, a small model with embeddings of 512 dimensions"
NO_WEIGHTS: Final = "none: a model that costs nothing or waits"
_MINUTE_S: Final = 60
_FOUND_TIMEOUT_S: Final = 60 * _MINUTE_S


class Effort(NamedTuple):
    """How much a bench is to do: its arguments, and the seconds after which it is ended."""

    name: str
    arguments: tuple[str, ...]
    timeout_s: float


class Bench(NamedTuple):
    """A program of ops/bench, or `worker bench`: its figures come as JSON by `--json FILE`."""

    name: str
    title: str
    program: str
    weights: str
    quick: Effort | None
    full: Effort
    tables: tuple[Table, ...] = (Table(),)
    chart: Chart | None = None
    takes_photos: bool = False

    def effort(self, name: str) -> Effort | None:
        """Return what it does quickly or in full; None if it is too long to be quick."""
        return self.quick if name == QUICK else self.full

    def argv(self, effort: Effort, figures: Path) -> list[str]:
        """Return the command that writes its figures to a file."""
        if self.program == "worker bench":
            command = ["-m", "worker.cli", "bench"]
        else:
            command = [str(HERE / self.program)]
        return [sys.executable, *command, *effort.arguments, "--json", str(figures)]

    def typed(self, arguments: tuple[str, ...]) -> str:
        """Return the command as a person types it."""
        is_script = self.program.endswith(".py")
        program = f"python ops/bench/{self.program}" if is_script else self.program
        return " ".join((program, *arguments))


def _bench(
    program: str,
    title: str,
    weights: str,
    quick: tuple[str, float] | None,
    full: tuple[str, float],
    *tables: Table,
    name: str = "",
    chart: Chart | None = None,
    takes_photos: bool = False,
) -> Bench:
    return Bench(
        name=name or program.removesuffix(".py").replace("_", "-").replace(" ", "-"),
        title=title,
        program=program,
        weights=weights,
        quick=_effort(QUICK, *quick) if quick else None,
        full=_effort(FULL, *full),
        tables=tables or (Table(),),
        chart=chart,
        takes_photos=takes_photos,
    )


def _effort(name: str, arguments: str, minutes: float) -> Effort:
    return Effort(name, tuple(arguments.split()), minutes * _MINUTE_S)


_ENGINES: Final = Table(
    "figures",
    columns=(
        *("ms_per_image", "images_per_s", "versus_text", "versus_eager"),
        *("versus_eager_range", "cosine", "top1", "memory_mb", "rounds", "problem"),
    ),
)
_ENGINES_CHART: Final = Chart("figures", "ms_per_image", "milliseconds per image, lower is better")
# The first are those that most people ask for: a run that is stopped has them.
BENCHES: Final = (
    _bench(
        "compare.py",
        "Beside the alternatives",
        OUTLIERS,
        ("--seconds 6 --rounds 2", 12),
        ("", 60),
        Table(
            "contenders",
            columns=(
                *("images_per_s", "times_pipeline", "times_pipeline_range"),
                *("of_loop", "of_loop_range", "cpu_ms", "held_mb", "gpu_mb"),
            ),
        ),
        Table("worker", "Inside our worker"),
        chart=Chart("contenders", "images_per_s", "images per second"),
        takes_photos=True,
    ),
    _bench(
        "worker bench",
        "Engines and precisions, the bundled model",
        BUNDLED,
        ("--engine torchscript --engine onnx --runs 30 --seconds 4", 8),
        ("", 60),
        _ENGINES,
        chart=_ENGINES_CHART,
    ),
    _bench(
        "engines.py",
        "Engines and precisions, a model of full size",
        RANDOM,
        None,
        ("", 120),
        _ENGINES,
        chart=_ENGINES_CHART,
    ),
    _bench(
        "int8_weights.py",
        "int8 on weights that are, or look, trained",
        "trained (MiniLM, where its package is installed); random, with and without outliers",
        None,
        ("", 30),
        Table("models"),
    ),
    _bench(
        "overhead.py",
        "CPU of the queue beyond a loop",
        NO_WEIGHTS,
        ("--images 2000 --rounds 1 --chunk 64", 4),
        ("--images 20000 --rounds 3", 60),
        Table("chunks", "By images per chunk"),
        Table("naive", "The usual Celery worker, one task per image"),
        Table("bare_cpu_ms", "The loop, CPU ms/image"),
    ),
    _bench(
        "scaling.py",
        "Workers with a simulated device",
        NO_WEIGHTS,
        ("--latency 8 --workers 1 --workers 4 --seconds 3", 4),
        ("", 60),
    ),
    _bench(
        "batching.py",
        "Batches under backlog, and single images",
        BUNDLED,
        ("--images 800 --singles 40", 4),
        ("", 15),
    ),
    _bench(
        "decoding.py",
        "Fast and exact decoding, one thread",
        RANDOM,
        ("--rounds 2", 6),
        ("", 20),
        takes_photos=True,
    ),
    _bench(
        "decode_processes.py",
        "Decoding on threads and in processes",
        NO_WEIGHTS,
        ("--seconds 2 --rounds 2", 4),
        ("", 15),
        Table("decoders"),
        takes_photos=True,
    ),
    _bench("submit.py", "Submitting paths", NO_WEIGHTS, ("--rounds 3", 4), ("", 15)),
    _bench(
        "asking.py",
        "Waiting for `POST /predict`",
        NO_WEIGHTS,
        ("--asks 20", 4),
        ("--asks 200", 20),
    ),
    _bench(
        "fairness.py",
        "Small jobs beside a large one",
        NO_WEIGHTS,
        ("--large 3000 --jobs 3", 4),
        ("", 20),
    ),
    _bench(
        "labels.py",
        "Large label sets",
        SMALL,
        ("", 5),
        ("", 30),
        Table("rows"),
    ),
    _bench(
        "records_io.py",
        "Files of records, `retag` and `search`",
        SMALL,
        ("--images 50000 --labels 200", 4),
        ("", 60),
    ),
    _bench(
        "memory.py",
        "Memory over many images",
        NO_WEIGHTS,
        ("--paths 30000 --images 12000", 5),
        ("", 90),
    ),
    _bench("watching.py", "Flower", NO_WEIGHTS, ("--images 4000", 4), ("", 30)),
    _bench(
        "events_overhead.py",
        "Events and metrics",
        NO_WEIGHTS,
        ("--images 3000 --rounds 3", 5),
        ("", 60),
    ),
    _bench(
        "parity.py",
        "Agreement with transformers",
        "random weights, tiny models",
        ("chinese_clip clip vit", 5),
        ("", 30),
        Table("families"),
    ),
    _bench(
        "parity.py",
        "Agreement with transformers after some training",
        "tiny models trained for seconds",
        None,
        ("--trained", 40),
        Table("families"),
        name="parity-trained",
    ),
    _bench("soak.py", "Memory over half an hour", NO_WEIGHTS, None, ("", 45)),
)


def all_benches() -> dict[str, Bench]:
    """Return the benches by name: those above, and whatever else of ops/bench has a `--json`."""
    known = {one.program for one in BENCHES}
    others = (_found(file) for file in sorted(HERE.glob("*.py")) if file.name not in known)
    return {one.name: one for one in (*BENCHES, *filter(None, others))}


def _found(file: Path) -> Bench | None:
    """Return a program as a bench that is run in full, by its defaults; None if it is none."""
    source = file.read_text(encoding="utf-8")
    if '"--json"' not in source:
        return None
    title = (ast.get_docstring(ast.parse(source)) or file.stem).partition("\n")[0].rstrip(".")
    minutes = _FOUND_TIMEOUT_S / _MINUTE_S
    return _bench(file.name, title, "see the program", None, ("", minutes))


def chosen(only: tuple[str, ...], skip: tuple[str, ...], effort: str) -> Iterator[Bench]:
    """Yield the benches to run, in order.

    Raises:
        KeyError: there is no bench of that name.
    """
    known = all_benches()
    if unknown := [name for name in (*only, *skip) if name not in known]:
        raise KeyError(unknown[0])
    for bench in known.values():
        is_wanted = bench.name in only if only else bench.effort(effort) is not None
        if is_wanted and bench.name not in skip:
            yield bench
