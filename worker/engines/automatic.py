"""Settings and artifact -> the name of the engine: the one asked for, or the fastest by measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from worker.artifact.manifest import TOWERS
from worker.engines.programs import HAS_TORCHSCRIPT

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact
    from worker.contract.settings import Settings

_PREFERRED: Final = ("torchscript", "exported") if HAS_TORCHSCRIPT else ("exported", "torchscript")


def with_engine(settings: Settings, artifact: Artifact) -> Settings:
    """Return the settings with an engine's name in place of `auto`.

    Of those that the artifact has a file for, it is the one that was found fastest at its export,
    and TorchScript where none was measured. Where upstream gives up TorchScript, it is what needs
    none, if there is a file.
    """
    if settings.engine != "auto":
        return settings
    name: str = artifact.manifest.engine or "torchscript"
    if not HAS_TORCHSCRIPT or TOWERS[name] not in artifact.manifest.files:
        there = (one for one in _PREFERRED if TOWERS[one] in artifact.manifest.files)
        name = next(there)
    return msgspec.structs.replace(settings, engine=name)
