"""The verb `worker start`: options -> settings, with which the worker runs until it is stopped."""

from __future__ import annotations

from typing import Any, Final

import click

from worker.artifact.fitness import check_fitness
from worker.cli.options import ENGINES, PRECISIONS, device_option, read_settings
from worker.cli.verbs import exits_with_code, loading, verb
from worker.contract.i18n import ENGLISH, in_language
from worker.contract.i18n import gettext as _
from worker.contract.number_types import Whole
from worker.contract.options import Option
from worker.contract.settings import AUTO, MOST_BATCH, MOST_THREADS

# What a worker imports besides.
_NEED_NO_TORCH: Final = (
    *("numpy", "celery.apps.worker", "celery.worker.autoscale", "celery.concurrency.thread"),
    *("worker.contract.queue.app", "worker.contract.stores.jobs", "worker.monitoring.logs"),
)


class _NumberOrAuto(Whole):
    """A whole number within limits, or `auto`, which stays as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == AUTO:
            return value
        try:
            int(value)
        except ValueError:
            message = _("{value!r} is neither a whole number nor auto").format(value=value)
            self.fail(message, param, ctx)
        return super().convert(value, param, ctx)


def _places(
    context: click.Context, option: click.Parameter, places: tuple[str, ...]
) -> dict[str, Any]:
    """Tell directories, which must be there, from URLs."""
    if "" in places:
        # Click would take it for the directory where the worker is started.
        raise click.BadParameter(_("an empty name is no directory and no URL"), context, option)
    kind = click.Path(exists=True, file_okay=False, resolve_path=True)
    roots = tuple(kind.convert(word, option, context) for word in places if "://" not in word)
    urls = tuple(word for word in places if "://" in word)
    return {"image_roots": roots or None, "image_urls": urls or None}


@verb("worker start --allow /data/images --device cuda")
@click.option(
    "--model",
    metavar="ARTIFACT|DIR|ID",
    help="Artifact, or a Hugging Face directory or id, exported on first use. [default: bundled]",
)
@device_option("Device on which the model runs.")
@click.option(
    "--precision",
    type=click.Choice(("auto", *PRECISIONS)),
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
    type=Whole(min=1, max=MOST_THREADS),
    help="CPU threads of the model. [default: one per physical core, within the CPU quota]",
)
@click.option(
    "--max-batch",
    type=_NumberOrAuto(min=1, max=MOST_BATCH),
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
@exits_with_code
def start(broker: str | None, places: dict[str, Any], **options: Any) -> int:
    """Start a worker; Ctrl-C or SIGTERM finishes what is in flight and returns the rest."""
    if options["model"] == "":
        raise click.UsageError(_("no model is named: give --model an id or a directory"))
    settings = read_settings(broker_url=broker, **places, **options)
    check_fitness(settings)
    # Only now: these load torch, which takes seconds that `--help` need not.
    with loading():
        from worker.torch_start import load_libraries, postpone_meta_kernels

        if settings.engine == "torchscript":
            postpone_meta_kernels()
        load_libraries(_NEED_NO_TORCH)
        from worker.service.app import serve

    # Its log, and whatever else it writes, is for programs too.
    with in_language(ENGLISH):
        return serve(settings)
