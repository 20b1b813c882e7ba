"""Model, engine and device -> the batch size found best for them, kept in the cache directory."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from worker.artifact.cache_dir import cache_directory
from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.neighbours import read_neighbour
from worker.contract.reasons import os_reason
from worker.engines.automatic import with_engine
from worker.engines.base import device_name, model_threads, resolve_device
from worker.errors import NoCacheError

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact
    from worker.contract.settings import Settings

FILE: Final = "batch-sizes.json"
_MOST_BYTES: Final = 1024 * 1024

log = structlog.get_logger()


def tuned(settings: Settings, artifact: Artifact) -> Settings:
    """Return the settings with the batch size that is remembered, if they leave it open.

    Raises:
        DeviceError: there is no such device.
    """
    if settings.max_batch:
        return settings
    size = _sizes().get(_key(settings, artifact))
    if size is None:
        return settings
    log.info("batch.tuned", largest=size, model=artifact.id)
    return msgspec.structs.replace(settings, max_batch=size)


def remember(settings: Settings, artifact: Artifact, size: int) -> Path:
    """Keep the size for this model, engine and device; return the file.

    Raises:
        NoCacheError: it cannot be written.
    """
    file = cache_directory() / FILE
    text = json.dumps(_sizes() | {_key(settings, artifact): size}, indent=1) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Another process may read it meanwhile: it finds the old file or the new one.
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            new.write(text)
        os.replace(new.name, file)  # noqa: PTH105 - a name is at hand
    except OSError as e:
        raise NoCacheError(
            N_("{file} cannot be written: {reason}"), file=file, reason=os_reason(e)
        ) from e
    return file


def _sizes() -> dict[str, int]:
    try:
        body = read_neighbour(cache_directory() / FILE, _MOST_BYTES)
        found = msgspec.json.decode(body, type=dict[str, int])
    except (FileNotFoundError, NoCacheError):
        return {}
    except (OSError, msgspec.DecodeError) as e:
        log.warning("batch.sizes_unreadable", error=str(e))
        return {}
    return {key: size for key, size in found.items() if size > 0}


def _key(settings: Settings, artifact: Artifact) -> str:
    device = resolve_device(settings.device, artifact.manifest.precision)
    name = device_name(device)
    if device.type == "cpu":
        name += f", {model_threads(settings)} threads"
    return f"{artifact.id} in {with_engine(settings, artifact).engine} on {name}"
