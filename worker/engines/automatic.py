"""Settings and artifact -> the name of the engine: the one asked for, or the fastest by measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from worker.artifact.manifest import IMAGE_PROGRAM, IMAGE_TOWER
from worker.engines.programs import HAS_TORCHSCRIPT

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact
    from worker.contract.settings import Settings


def with_engine(settings: Settings, artifact: Artifact) -> Settings:
    """Return the settings with an engine's name in place of `auto`.

    Of those that the artifact has a file for, and Python can run, it is the one that was found
    fastest at its export; TorchScript where none was measured, or else what needs no TorchScript.
    """
    if settings.engine != "auto":
        return settings
    files, measured = artifact.manifest.files, artifact.manifest.engine
    if not HAS_TORCHSCRIPT or IMAGE_TOWER not in files:
        name = "exported"
    else:
        name = measured if measured and IMAGE_PROGRAM in files else "torchscript"
    return msgspec.structs.replace(settings, engine=name)
