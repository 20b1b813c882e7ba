"""ONNX: the image tower in ONNX Runtime, made once from the artifact's own weights and kept.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from worker.artifact.cache_dir import cache_directory
from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import os_reason
from worker.engines.base import Synchronous, resolve_device
from worker.errors import ArtifactError, DeviceError, NoCacheError
from worker.model.precision import adds_in_32_bits

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact

_OPSET: Final = 18
_PRECISIONS: Final = ("fp32", "int8")
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine(Synchronous):
    """An ONNX Runtime session. It takes pixels from and gives rows to the CPU."""

    name = "onnx"

    def __init__(self, session: Any, device: torch.device) -> None:
        self._session = session
        self._device = device

    @classmethod
    def load(cls, artifact: Artifact, device: str = "auto") -> Self:
        """Make the ONNX file unless it is kept already, and load it.

        Raises:
            DeviceError: there is no such device, ONNX Runtime lacks it or is not installed.
            ArtifactError: the artifact lacks transformers' weights, or has an unfit precision.
        """
        precision = artifact.manifest.precision
        target = resolve_device(device, precision)
        _check(artifact, precision)
        import onnxruntime  # noqa: PLC0415 - an optional extra

        provider = _PROVIDERS[target.type]
        if provider not in onnxruntime.get_available_providers():
            raise DeviceError(
                N_("this ONNX Runtime does not run on {device}: install onnxruntime-gpu"),
                device=target.type,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        file = onnx_file(artifact)
        return cls(onnxruntime.InferenceSession(file, options, providers=[provider]), target)

    @property
    def device(self) -> str:
        """Where it runs: `cpu` or `cuda:0`."""
        return str(self._device)

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND, or a classifier's logits, for uint8 pixels."""
        (rows_ND,) = self._session.run(None, {"pixels": pixels_NCHW.cpu().numpy()})
        return torch.from_numpy(rows_ND)


def onnx_file(artifact: Artifact) -> Path:
    """Return the artifact's image tower as an ONNX file, made on first use and kept in the cache.

    int8 is what ONNX Runtime's own dynamic quantisation makes of float32, weights by channel; in
    seven bits for processors whose sums would overflow.

    Raises:
        ArtifactError: as `OnnxEngine.load`.
    """
    is_int8 = artifact.manifest.precision == "int8"
    bits = "" if not is_int8 or adds_in_32_bits() else "-7bit"
    file = cache_directory() / "onnx" / f"{artifact.id}-{torch.__version__}{bits}.onnx"
    if file.exists():
        return file
    with _beside(file) as directory:
        made = Path(directory) / "fp32.onnx"
        _export(artifact, made)
        if is_int8:
            made = _quantize(made)
        # Whole or not at all, should several workers start at once.
        made.rename(file)
    return file


def _beside(file: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=file.parent)
    except OSError as e:
        raise NoCacheError(
            N_("{file} cannot be written: {reason}"), file=file, reason=os_reason(e)
        ) from e


def _check(artifact: Artifact, precision: str) -> None:
    if lacking := missing("onnx"):
        raise DeviceError(
            N_("the engine onnx needs {modules}: {install}"),
            modules=", ".join(lacking),
            install=remedy("onnx"),
        )
    if precision not in _PRECISIONS:
        raise ArtifactError(
            N_("model {model} is {precision}; the engine onnx runs {precisions}"),
            model=artifact.id,
            precision=precision,
            precisions=", ".join(_PRECISIONS),
        )


def _export(artifact: Artifact, file: Path) -> None:
    from worker.model.original import original_tower  # noqa: PLC0415

    spec = artifact.manifest.preprocessing
    example_NCHW = torch.zeros(2, 3, spec.height, spec.width, dtype=torch.uint8)
    with warnings.catch_warnings():
        # Of torch's own making: what it exports is compared with the model in tests.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            original_tower(artifact),
            (example_NCHW,),
            file,
            input_names=["pixels"],
            output_names=["rows"],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _quantize(file: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    prepared, quantized = file.with_name("prepared.onnx"), file.with_name("int8.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(
        str(prepared),
        str(quantized),
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not adds_in_32_bits(),
    )
    return quantized
