"""A rewritten tower in float32 -> the same tower in another precision, and where that can run."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Final, Literal

import torch

from worker.contract.i18n import gettext_noop as N_
from worker.errors import DeviceError
from worker.model.int8.quantize import Quantized, quantize
from worker.model.rewrite import cut_patches_linearly, mix_in

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "bf16", "int8")
# How near embeddings below float32 must be to the model's own, unless less is asked for: a cosine.
ACCEPTED: Final = 0.999
_FLOATS: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Whose operations int8 is made of. Modules of earlier versions pack their weights for the engine
# that is set while they are loaded.
INT8_ENGINE: Final = "onednn"


def supported(device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions that are worth trying on a device."""
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("fp32", "fp16", "bf16") if bf16 else ("fp32", "fp16")
    found: list[Precision] = ["fp32"]
    if _multiplies_bf16():
        found.append("bf16")
    if INT8_ENGINE in torch.backends.quantized.supported_engines:
        found.append("int8")
    return tuple(found)


def check(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        DeviceError: naming both.
    """
    if precision == "int8" and device.type != "cpu":
        raise DeviceError(N_("int8 runs on the CPU alone; take fp16 for CUDA"))
    if precision == "fp16" and device.type != "cuda":
        raise DeviceError(N_("fp16 is for CUDA; on the CPU take bf16 or int8"))


def convert(tower: Any, precision: Precision, device: torch.device) -> Any:
    """Return a copy of a rewritten image tower that computes in floats of `precision`.

    What goes in and comes out stays as it is. For int8, which is calibrated, there is `to_int8`.
    """
    tower = copy.deepcopy(tower)
    if device.type == "cpu" and precision == "bf16" and _multiplies_bf16():
        mix_in(tower, torch.bfloat16)
    scaled, exact = tower.scaled, copy.deepcopy(getattr(tower, "exact", None))
    tower.to(_FLOATS[precision])
    # uint8 values are scaled in float32 and then rounded once.
    tower.scaled = scaled.to(torch.float32)
    if exact is not None:
        tower.exact.load_state_dict(exact.to(torch.float32).state_dict(), assign=True)
    tower.dtype = _FLOATS[precision]
    return tower.to(device)


def to_int8(tower: Any, pixels_NCHW: torch.Tensor, least_cosine: float) -> Quantized:
    """Return a copy of a rewritten image tower in int8, calibrated on pixels NCHW of pictures.

    Layers that would take it further from itself than `least_cosine` stay in floats.
    """
    tower = copy.deepcopy(tower)
    cut_patches_linearly(tower)
    found = quantize(tower, pixels_NCHW, least_cosine, bfloat16=_multiplies_bf16())
    if _multiplies_bf16():
        mix_in(found.tower, torch.bfloat16)
    return found


def _multiplies_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; otherwise it is slower than float32."""
    found: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - no public way
    return found


def use_int8_engine() -> None:
    """Let torch pack and run int8 layers of earlier versions with oneDNN, for the process."""
    if INT8_ENGINE in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = INT8_ENGINE
    with warnings.catch_warnings():
        # Said once in a process, of its first int8 tensor; of a file's, past Python's filters.
        warnings.simplefilter("ignore")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8)
