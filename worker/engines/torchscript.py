"""TorchScript: runs an artifact's `image.pt` as it was exported.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import torch

from worker.contract.i18n import gettext_noop as N_
from worker.engines.base import resolve_device
from worker.engines.convolutions import has_many, laid_out
from worker.engines.mapped_weights import map_weights
from worker.engines.pack_int8 import pack_graph
from worker.engines.runners import TowerEngine
from worker.errors import ArtifactError
from worker.model.precision import Precision, use_int8_engine

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact


class TorchScriptEngine(TowerEngine):
    """The image tower in TorchScript."""

    name = "torchscript"

    def __init__(
        self, module: torch.jit.ScriptModule, device: torch.device, precision: Precision
    ) -> None:
        super().__init__(module, device, has_short_layers=precision != "fp32" or has_many(module))

    @classmethod
    def load(cls, artifact: Artifact, device: str = "auto") -> Self:
        """Load the image tower on `auto`, `cpu`, `cuda` or `cuda:n`.

        Raises:
            DeviceError: there is no such device.
            ArtifactError: the file is no TorchScript that this torch can load.
        """
        precision = artifact.manifest.precision
        target = resolve_device(device, precision)
        if precision == "int8":
            use_int8_engine()
        return cls(load_module(artifact.file("image.pt"), target), target, precision)


def load_module(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """Load TorchScript onto `device`, ready for inference, wherever it was traced.

    Weights of eight bits become floats, once, and convolutions get the layout of the processor.
    What the exporter measures has come this way too.

    Raises:
        ArtifactError: torch cannot load it.
    """
    try:
        with warnings.catch_warnings(), _one_thread():
            # torch.jit is deprecated upstream; other engines stand beside this one.
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            module: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location=device
            )
            place_constants(module, device)
            if is_packed(module):
                module = torch.jit.freeze(module.eval())
            elif device.type == "cpu":
                # Where it cannot be done, weights are this process's own, as they were.
                with suppress(OSError, RuntimeError, BadZipFile):
                    map_weights(module, path)
            if device.type == "cpu":
                pack_graph(module)
                module = laid_out(module)
    except (RuntimeError, ValueError, OSError) as e:
        reason = str(e).strip().partition("\n")[0]
        raise ArtifactError(
            N_("torch {version} cannot load {file} of the model: {reason}"),
            version=torch.__version__,
            file=path.name,
            reason=reason,
        ) from e
    return module.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let this thread alone compute in the block.

    What is multiplied while a graph is frozen is small: threads that share it wait for each other,
    on a busy machine ten times as long as the work takes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def is_packed(module: torch.jit.ScriptModule) -> bool:
    """Whether its weights lie in eight bits (worker/model/packed.py), and are not floats yet."""
    return any(tensor.dtype == torch.int8 for tensor in module.buffers())


def place_constants(module: Any, device: torch.device) -> None:
    """Let what the forward pass itself makes, such as masks and positions, lie on `device`.

    A trace writes down where it was made, as a constant that `torch.jit.load` does not map. Must
    come before the first run, which compiles the graph.
    """
    for node in module.graph.findAllNodes("prim::Constant"):
        if node.output().type().kind() == "DeviceObjType":
            node.s_("value", str(device))
