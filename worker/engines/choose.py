"""Settings -> the engine that they ask for, with eager behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from worker.artifact.manifest import ORIGINAL
from worker.contract.settings import Settings
from worker.engines.automatic import with_engine
from worker.engines.base import Engine, use_threads
from worker.engines.compiled import CompileEngine
from worker.engines.eager import EagerEngine
from worker.engines.exported import ExportedEngine
from worker.engines.fallback import FallbackEngine
from worker.engines.onnx import OnnxEngine
from worker.engines.torchscript import TorchScriptEngine
from worker.torch_start import provide_meta_kernels

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact

LOADERS: Final[dict[str, Callable[[Artifact, str], Engine]]] = {
    "torchscript": TorchScriptEngine.load,
    "exported": ExportedEngine.load,
    "eager": EagerEngine.load,
    "compile": CompileEngine.load,
    "onnx": OnnxEngine.load,
}


def open_engine(artifact: Artifact, settings: Settings) -> Engine:
    """Load the image tower in the engine, on the device and with the threads of the settings.

    If the artifact holds transformers' own weights, eager takes over from an engine that fails.

    Raises:
        DeviceError: the device is not here, or something that the engine needs.
        ArtifactError: the artifact cannot be used with this engine.
    """
    if settings.engine != TorchScriptEngine.name:
        provide_meta_kernels()
    use_threads(settings)
    settings = with_engine(settings, artifact)
    first = LOADERS[settings.engine](artifact, settings.device)
    if (
        settings.engine == EagerEngine.name
        or f"{ORIGINAL}/config.json" not in artifact.manifest.files
    ):
        return first

    def spare() -> Engine:
        provide_meta_kernels()
        return EagerEngine.load(artifact, first.device)

    return FallbackEngine(first, spare)
