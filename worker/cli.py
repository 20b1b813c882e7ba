"""Click verbs of `worker`: arguments, printing, exit codes; nothing else."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from worker.contract.commands import TranslatedGroup, version_option
from worker.contract.extras import missing, remedy
from worker.contract.i18n import ENGLISH, in_language
from worker.contract.i18n import gettext as _
from worker.contract.imports import importing
from worker.contract.labels import LabelsError
from worker.contract.options import Option
from worker.contract.printable import printable_lines
from worker.contract.reasons import reason
from worker.contract.settings import AUTO, Settings, SettingsError
from worker.contract.stops import end_as_usual, end_at_once

EXPORTED = ("torchscript", "exported")
ENGINES = (*EXPORTED, "eager", "compile", "onnx")
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
# What a worker imports besides.
_NEED_NO_TORCH = (
    *("numpy", "celery.apps.worker", "celery.worker.autoscale", "celery.concurrency.thread"),
    *("worker.contract.queue.app", "worker.contract.stores.jobs", "worker.monitoring.logs"),
)
PLACE = click.Path(dir_okay=False, path_type=Path)


class _NumberOrAuto(click.IntRange):
    """A whole number within limits, or `auto`, which stays as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == AUTO else super().convert(value, param, ctx)


def _places(
    context: click.Context, option: click.Parameter, places: tuple[str, ...]
) -> dict[str, Any]:
    """Tell directories, which must be there, from URLs."""
    kind = click.Path(exists=True, file_okay=False, resolve_path=True)
    roots = tuple(kind.convert(word, option, context) for word in places if "://" not in word)
    urls = tuple(word for word in places if "://" in word)
    return {"image_roots": roots or None, "image_urls": urls or None}


def _number(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    """Refuse nan, which no range refuses."""
    if value is not None and math.isnan(value):
        msg = _("this is no number to compare with")
        raise click.BadParameter(msg)
    return value


def _precisions(
    context: click.Context, option: click.Parameter, lists: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the precisions of all lists, each once."""
    kind = click.Choice(PRECISIONS[1:])
    named = [name.strip() for one in lists for name in one.split(",")]
    return tuple(dict.fromkeys(kind.convert(name, option, context) for name in named))


@click.group(cls=TranslatedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def main() -> None:
    """Run a model and tag the images that producers submit."""
    from worker.artifact.cache_dir import provide_home  # noqa: PLC0415 - as all of the worker
    from worker.blas import multiply_alone, wait_briefly  # noqa: PLC0415

    multiply_alone()
    wait_briefly()
    provide_home()


@main.command(epilog="Example: worker start --allow /data/images --device cuda")
@click.option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    help="Artifact, or a Hugging Face directory or id, exported on first use. [default: bundled]",
)
@click.option(
    "--device", metavar="auto|cpu|cuda[:n]", help="Device on which the model runs. [default: auto]"
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of a model that is exported on first use. [default: auto]",
)
@click.option(
    "--engine",
    type=click.Choice(("auto", *ENGINES)),
    help="Engine that runs the model. [default: auto, which is torchscript unless "
    "the export of the model found another faster]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of the model. [default: one per physical core, within the CPU quota]",
)
@click.option(
    "--max-batch",
    type=_NumberOrAuto(min=1),
    metavar="N|auto",
    help="Largest micro-batch. [default: auto: what `worker bench --tune` found, else 4]",
)
@click.option(
    "--allow",
    "places",
    cls=Option,
    old=["--images"],
    multiple=True,
    metavar="DIR|URL",
    callback=_places,
    help="Directory, or prefix of URLs such as s3://photos/2026/, below which "
    "images may be read; may be repeated. Without it, only images that are "
    "sent as bytes are tagged. [default: WANWU_IMAGE_ROOTS, "
    "WANWU_IMAGE_URLS]",
)
@click.option(
    "--broker", metavar="URL", help="URL of the Redis of the queue. [default: WANWU_BROKER_URL]"
)
def start(broker: str | None, places: dict[str, Any], **options: Any) -> None:
    """Start a worker; Ctrl-C or SIGTERM finishes what is in flight and returns the rest."""
    _check_libraries()
    try:
        settings = Settings.from_env(broker_url=broker, **places, **options)
    except SettingsError as e:
        raise click.UsageError(str(e)) from e
    # Only now: these load torch, which takes seconds that `--help` need not.
    with _loading():
        from worker.errors import TaggerError  # noqa: PLC0415
        from worker.torch_start import load_libraries, postpone_meta_kernels  # noqa: PLC0415

        if settings.engine == "torchscript":
            postpone_meta_kernels()
        load_libraries(_NEED_NO_TORCH)
        from worker.service.app import serve  # noqa: PLC0415

    try:
        # Its log, and whatever else it writes, is for programs too.
        with in_language(ENGLISH):
            code = serve(settings)
    except TaggerError as e:
        _fail(str(e))
    sys.exit(code)


@main.command(
    epilog="Example: worker export --model OFA-Sys/chinese-clip-vit-base-patch16 --out chinese-clip"
)
@click.option(
    "--model", required=True, metavar="ID|DIR", help="Hugging Face id, or directory, of a model."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the artifact, replaced if it holds one already. [default: "
    "in the cache, where `worker start --model` with the same ID or DIR "
    "finds it]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="auto takes the fastest one that agrees with the model. [default: auto]",
)
@click.option(
    "--device", metavar="auto|cpu|cuda[:n]", help="Device on which it will run. [default: auto]"
)
@click.option("--revision", metavar="COMMIT", help="Revision on the hub. [default: the latest]")
@click.option(
    "--engine",
    "engines",
    type=click.Choice(EXPORTED),
    multiple=True,
    help="Engine that the artifact is for; with both, they are measured in turns, and workers take "
    "the faster one. [default: torchscript; exported on Python 3.14]",
)
@click.option(
    "--calibrate",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of pictures like yours, by which int8 and bf16 are calibrated and judged: half "
    "of some dozens for either. [default: pictures that come with the program]",
)
@click.option(
    "--accept",
    type=click.FloatRange(0.9, 1.0, max_open=True),
    callback=_number,
    help="How near to the model's own embeddings those of a precision must be, as a cosine. "
    "[default: 0.999]",
)
def export(
    model: str,
    out: Path | None,
    revision: str | None,
    engines: tuple[str, ...],
    calibrate: Path | None,
    accept: float | None,
    **options: Any,
) -> None:
    """Export a Hugging Face model as an artifact, and print where it is.

    The artifact is compared with the model; if they disagree, none is left behind.
    """
    _check_libraries()
    if out and out.exists() and not (out / "manifest.json").exists() and any(out.iterdir()):
        msg = _("{out} holds something else than an artifact, which would be replaced")
        raise click.UsageError(msg.format(out=out))
    with _loading():
        from worker.errors import TaggerError  # noqa: PLC0415
        from worker.export.gate import gate_of  # noqa: PLC0415
        from worker.export.on_first_use import export_to  # noqa: PLC0415

    try:
        settings = Settings.from_env(model=model, **options)
        gate, names = gate_of(accept, calibrate), tuple(dict.fromkeys(engines))
        click.echo(export_to(out, settings, revision, _echo, names, gate))
    except SettingsError as e:
        raise click.UsageError(str(e)) from e
    except TaggerError as e:
        _fail(str(e))


@main.command(epilog="Example: worker bench --model chinese-clip --chart bench.png")
@click.option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    help="Artifact, or a Hugging Face directory or id. [default: bundled]",
)
@click.option("--device", metavar="auto|cpu|cuda[:n]", help="Device to measure on. [default: auto]")
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads of everything that is measured."
)
@click.option("--label", "labels", multiple=True, help="Label to compare by. [default: six words]")
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Files or directories of images to measure with. [default: synthetic images]",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(ENGINES),
    multiple=True,
    help="Measure only this engine, next to the baselines; may be repeated. [default: all]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="fp32,int8,...",
    callback=_precisions,
    help="Measure only these precisions, next to the baselines; may be repeated. "
    "[default: those of the device]",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Calls to measure, for each engine and batch size.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    callback=_number,
    default=30.0,
    show_default=True,
    help="Seconds after which to stop, even if fewer than --runs are measured.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Find the best batch size for this device; `worker start` uses it from "
    "then on. Engine and precision are those of WANWU_ENGINE and "
    "WANWU_PRECISION, as for `worker start`.",
)
@click.option("--json", "json_file", type=PLACE, help="Write the figures to this JSON file.")
@click.option(
    "--markdown",
    "markdown_file",
    type=PLACE,
    help="Write the figures to this file as a Markdown table.",
)
@click.option("--chart", "chart_file", type=PLACE, help="Draw the figures to this PNG file.")
def bench(**options: Any) -> None:
    """Measure a model in every engine and precision, next to plain transformers.

    Batches of 1 and 4, five warm-up calls, the median; each in a process of its own, all in turns.
    What cannot be measured here is listed with the reason. Ctrl-C or SIGTERM ends with what has
    been measured by then.
    """
    _check_libraries()
    if options["chart_file"] and missing("bench"):
        _fail(_("a chart needs matplotlib: {install}").format(install=remedy("bench")))
    # A signal ends it at once until `run` or `tune` keep what has been measured.
    with importing():
        from worker.bench.command import Request, run, tune  # noqa: PLC0415
        from worker.errors import TaggerError  # noqa: PLC0415

    measure = tune if options.pop("tune") else run
    request = Request(*(options.pop(name) for name in Request._fields))
    try:
        sys.exit(measure(request, Settings.from_env(**options), _echo))
    except SettingsError as e:
        raise click.UsageError(str(e)) from e
    except TaggerError as e:
        _fail(str(e))


@main.command(epilog="Example: worker evaluate ./photos --labels labels.txt --html mistakes.html")
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--truth",
    type=click.Choice(("folders", "captions")),
    help="What says what a picture in a directory shows: its folder's name, or a .txt file of its "
    "own name. [default: captions if there is any, else folders]",
)
@click.option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    help="Artifact, or a Hugging Face directory or id. [default: bundled]",
)
@click.option("--device", metavar="auto|cpu|cuda[:n]", help="Device to measure on. [default: auto]")
@click.option(
    "--labels",
    metavar="FILE|NAME",
    help="Label file, or a vocabulary by its name. [default: the model's own labels]",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="Prompt with {} for the label; may be repeated. [default: the model's own]",
)
@click.option("--calibrated", is_flag=True, help="Score each label by itself.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    callback=_number,
    help="Lowest score of a tag, 0 to 1. [default: 0.5; 0 with --labels alone]",
)
@click.option("--json", "json_file", type=PLACE, help="Write all figures to this JSON file.")
@click.option(
    "--html",
    "html_file",
    type=PLACE,
    help="Write tables and the worst mistakes, with thumbnails, to this HTML file.",
)
def evaluate(**options: Any) -> None:
    """Measure how right a model is on PICTURES whose labels are known.

    PICTURES is a directory of folders that are named by labels, a directory of pictures with
    captions, or a table (CSV, TSV) with the columns path and label. Prints top-1 and top-5, each
    label, calibration, confusions, and precision and recall at the threshold and at the best one.
    """
    _check_libraries()
    with _loading():
        from worker.errors import TaggerError  # noqa: PLC0415
        from worker.evaluation.command import Request, run  # noqa: PLC0415

    request = Request(*(options.pop(name) for name in Request._fields))
    try:
        run(request, Settings.from_env(**options), _echo)
    except (SettingsError, LabelsError) as e:
        raise click.UsageError(str(e)) from e
    except TaggerError as e:
        _fail(str(e))


@main.command(epilog="Example: worker texts --model chinese-clip < labels.json > embeddings")
@click.option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    help="Artifact, or a Hugging Face directory or id. [default: bundled]",
)
def texts(model: str | None) -> None:
    """Embed a label set, for programs: JSON on standard input, a line of JSON and float32 out."""
    _check_libraries()
    with _loading():
        from worker.errors import TaggerError  # noqa: PLC0415
        from worker.service.text_embeddings import encode_texts  # noqa: PLC0415

    try:
        settings = Settings.from_env(model=model)
        encode_texts(settings, sys.stdin.buffer, sys.stdout.buffer)
    except (SettingsError, LabelsError) as e:
        raise click.UsageError(str(e)) from e
    except msgspec.MsgspecError as e:
        raise click.UsageError(str(reason(str(e)))) from e
    except TaggerError as e:
        _fail(str(e))


@main.command(epilog="Example: worker health")
def health() -> None:
    """Ask the worker at WANWU_MONITOR_PORT whether it is healthy; exit 0 if so, else 1."""
    _check_libraries()
    from worker.monitoring.http import ask  # noqa: PLC0415

    try:
        problem = ask(Settings.from_env())
    except SettingsError as e:
        raise click.UsageError(str(e)) from e
    if problem:
        _fail(problem)
    click.echo(_("healthy"))


@contextmanager
def _loading() -> Iterator[None]:
    """Import in the block; after it a signal interrupts work, which may have to be undone."""
    with importing():
        yield
    end_as_usual()


def _check_libraries() -> None:
    if missing("worker"):
        message = _("this command needs the worker's libraries: {install}")
        _fail(message.format(install=remedy("worker")))


def _echo(line: str) -> None:
    click.echo(printable_lines(line), err=True)


def _fail(message: str) -> NoReturn:
    _echo(_("error: {message}").format(message=message))
    sys.exit(1)


if __name__ == "__main__":
    end_at_once()
    main()
