"""`--model` -> Artifact: one that exists, or one exported on first use and cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from worker.artifact.cache_dir import cache_directory
from worker.artifact.fitness import check_precision
from worker.artifact.manifest import (
    FORMAT,
    TOWERS,
    Artifact,
    Source,
    open_artifact,
)
from worker.artifact.model_names import is_source, place_of
from worker.contract.i18n import gettext as _
from worker.contract.settings import Settings
from worker.engines.base import resolve_device, use_threads
from worker.errors import ArtifactError
from worker.export.gate import Gate
from worker.images.decode import set_up
from worker.torch_start import provide_meta_kernels

_DIGITS: Final = 16
Echo = Callable[[str], None]


def open_model(settings: Settings, echo: Echo = lambda _: None) -> Artifact:
    """Return the artifact that the settings mean; `echo` is called with the steps of an export.

    `model` is an artifact, a directory of a Hugging Face model, an id of the hub, or empty for the
    bundled model. The middle two are exported once for each device and precision asked for.

    Raises:
        ArtifactError: the artifact cannot be used, or has another precision than asked for.
        ExportError: the model cannot be found or exported.
        DeviceError: there is no such device, or it does not have this precision.
    """
    if is_source(settings.model):
        return open_artifact(export_to(None, settings, None, echo))
    artifact = open_artifact(place_of(settings.model))
    check_precision(artifact.manifest, artifact.id, settings.precision)
    return artifact


def export_to(
    out: Path | None,
    settings: Settings,
    revision: str | None,
    echo: Echo,
    engines: tuple[str, ...] = (),
    gate: Gate | None = None,
) -> Path:
    """Export the settings' model to `out`, or into the cache unless it is there; return the place.

    With `engines` for those, else for the one that is usual with this Python. A `gate` says how
    near precisions below float32 must be, and by which pictures; what is in the cache was exported
    with the usual one.

    Raises:
        ExportError, DeviceError: as for `open_model`.
    """
    provide_meta_kernels()
    # Only now: transformers takes seconds to load, which an artifact need not.
    from worker.export.export import DEFAULT_ENGINES, export_found  # noqa: PLC0415
    from worker.model.hub import find  # noqa: PLC0415

    use_threads(settings)
    set_up(settings.max_pixels)
    device = resolve_device(settings.device, settings.precision)
    found = find(settings.model, revision, echo)
    place = out or _place(found.source, settings.precision, device)
    if out is None and gate is None and _is_whole(place, engines):
        return place
    echo(_("exporting {model} to {place}").format(model=found.source.id, place=place))
    export_found(
        *(found, place),
        precision=settings.precision,
        device=device,
        engines=engines or DEFAULT_ENGINES,
        gate=gate or Gate(),
        echo=echo,
    )
    return place


def _place(source: Source, precision: str, device: torch.device) -> Path:
    """Return the cache directory of an exported model; each version of anything has its own."""
    parts = (source.id, source.revision, precision, device.type, FORMAT, torch.__version__)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:_DIGITS]
    return cache_directory() / f"{source.id.replace('/', '--')}-{key}"


def _is_whole(place: Path, engines: tuple[str, ...]) -> bool:
    """Whether a complete artifact for these engines is there; a damaged one is made anew."""
    try:
        files = open_artifact(place).manifest.files
    except ArtifactError:
        return False
    return all(TOWERS[name] in files for name in engines)
