"""What an engine is, and which device it runs on.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from worker.artifact.fitness import check_device_runs
from worker.contract.cpus import usable_cpus
from worker.contract.i18n import gettext_noop as N_
from worker.contract.settings import DEVICE, NO_DEVICE, Settings
from worker.errors import DeviceError

Wait = Callable[[], torch.Tensor]


def model_threads(settings: Settings) -> int:
    """Return the CPU threads of a model: as set, else as torch has it, within the CPU quota."""
    return settings.threads or min(torch.get_num_threads(), usable_cpus().usable)


def use_threads(settings: Settings) -> None:
    """Let torch work with the threads of the settings."""
    if (threads := model_threads(settings)) != torch.get_num_threads():
        torch.set_num_threads(threads)


class Engine(Protocol):
    """A model ready to run. One thread calls it; its properties may be read from any."""

    @property
    def name(self) -> str:
        """The engine's name, such as `torchscript`."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu` or `cuda:0`."""

    @property
    def pipelined(self) -> bool:
        """Whether `launch` returns before the batch is done: then another may be launched."""

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND for uint8 pixels, which may lie on any device."""

    def launch(self, pixels_NCHW: torch.Tensor) -> Wait:
        """Begin a batch; what is returned waits for its embeddings, and is called once.

        At most two batches may be under way, and they are awaited in order.
        """


class Synchronous:
    """Base of engines that compute a batch when it is launched."""

    @property
    def pipelined(self) -> bool:
        """A batch is done when `launch` returns."""
        return False

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND for uint8 pixels, which may lie on any device."""
        raise NotImplementedError

    def launch(self, pixels_NCHW: torch.Tensor) -> Wait:
        """Compute the batch; what is returned hands over its embeddings."""
        rows_ND = self.embed(pixels_NCHW)
        return lambda: rows_ND


def resolve_device(wanted: str, precision: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:n`: the only place where one is chosen.

    Raises:
        DeviceError: no such device here, or it cannot run models of this precision.
    """
    if wanted == "auto":
        # Dynamically quantised linear layers exist on the CPU alone.
        on_cuda = torch.cuda.is_available() and precision != "int8"
        return torch.device("cuda:0") if on_cuda else _cpu(precision)
    if wanted == "cpu":
        return _cpu(precision)
    match = DEVICE.fullmatch(wanted)
    if match is None:
        raise DeviceError(NO_DEVICE, wanted=wanted)
    index, count = int(match["index"] or 0), torch.cuda.device_count()
    if index >= count:
        message = N_("device {wanted} was asked for, but torch finds no CUDA device here")
        if count:
            message = N_("device {wanted} was asked for, but CUDA devices here: {count}")
        raise DeviceError(message, wanted=wanted, count=count)
    check_device_runs(wanted, precision)
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """Return what the device is called: a GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())


def device_memory(device: str) -> dict[str, int]:
    """Return bytes of a GPU's memory by kind; nothing for the CPU.

    `allocated` and `reserved` are this process's, as torch counts them; `free` and `total` are the
    GPU's.
    """
    if not device.startswith("cuda"):
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "free": free,
        "total": total,
    }


def device_utilisation(device: str) -> float | None:
    """Return the share of the last moment in which a GPU computed, 0 to 1; None if unknown."""
    if not device.startswith("cuda"):
        return None
    try:
        return torch.cuda.utilization(torch.device(device)) / 100
    except (ImportError, RuntimeError):
        # NVML, its driver or the permission is missing: no reason to fail.
        return None


def _cpu(precision: str) -> torch.device:
    check_device_runs("cpu", precision)
    return torch.device("cpu")
