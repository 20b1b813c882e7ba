"""ONNX: the image tower in ONNX Runtime, made once from the artifact's own weights and kept.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import structlog
import torch
from torch import nn

from worker.artifact.cache_dir import cache_directory
from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import os_reason
from worker.engines.base import Synchronous, resolve_device
from worker.errors import ArtifactError, DeviceError, NoCacheError
from worker.model.int8.layers import DividedLinear, in_floats
from worker.model.int8.products import adds_in_32_bits
from worker.model.precision import ACCEPTED, to_int8
from worker.model.rewrite import for_inference
from worker.model.sample import batches_of, sample

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact, Preprocessing

_OPSET: Final = 18
_PRECISIONS: Final = ("fp32", "int8")
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


log = structlog.get_logger()


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

    int8 is what ONNX Runtime's own dynamic quantisation makes of our layers, whose inputs are
    divided by token, weights by channel; in seven bits for processors whose sums would overflow.

    Raises:
        ArtifactError: as `OnnxEngine.load`, or int8 is too far from the model.
    """
    is_int8 = artifact.manifest.precision == "int8"
    bits = "" if not is_int8 else "-8bit" if adds_in_32_bits() else "-7bit"
    file = cache_directory() / "onnx" / f"{artifact.id}-{torch.__version__}{bits}.onnx"
    if file.exists():
        return file
    log.info("onnx.making", model=artifact.id, file=str(file))
    with _beside(file) as directory:
        made = Path(directory) / "fp32.onnx"
        spec = artifact.manifest.preprocessing
        if is_int8:
            pictures = sample(spec, None)
            original = for_inference(_original(artifact))
            tower = in_floats(to_int8(original, pictures.calibrated_on, ACCEPTED).tower)
            _export(tower, spec, made)
            made = _quantize(made, _floats_of(tower))
            _check_int8(artifact, made, original, batches_of(pictures.judged_by)[0])
        else:
            _export(_original(artifact), spec, made)
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


def _original(artifact: Artifact) -> Any:
    from worker.model.original import original_tower  # noqa: PLC0415 - transformers takes seconds

    return original_tower(artifact)


def _floats_of(tower: nn.Module) -> list[torch.Tensor]:
    """Return the weights of linear layers that are to stay as they are."""
    divided = {id(one.linear) for one in tower.modules() if isinstance(one, DividedLinear)}
    return [
        one.weight
        for one in tower.modules()
        if isinstance(one, nn.Linear) and id(one) not in divided
    ]


def _check_int8(
    artifact: Artifact, file: Path, original: nn.Module, pixels_NCHW: torch.Tensor
) -> None:
    """Refuse what is too far from the model: the artifact was judged in another engine."""
    import onnxruntime  # noqa: PLC0415 - an optional extra

    session = onnxruntime.InferenceSession(file, providers=[_PROVIDERS["cpu"]])
    (rows_ND,) = session.run(None, {"pixels": pixels_NCHW.numpy()})
    with torch.no_grad():
        wanted_ND = original(pixels_NCHW)
    cosines = nn.functional.cosine_similarity(torch.from_numpy(rows_ND), wanted_ND)
    cosine = float(cosines.min().nan_to_num(-1.0))
    accepted = min(ACCEPTED, artifact.manifest.parity.get("accepted_cosine", ACCEPTED))
    if cosine < accepted:
        raise ArtifactError(
            N_(
                "in int8, ONNX Runtime takes model {model} too far from itself on this processor "
                "(cosine {cosine:.4f}): take the engine torchscript"
            ),
            model=artifact.id,
            cosine=cosine,
        )


def _export(tower: nn.Module, spec: Preprocessing, file: Path) -> None:
    example_NCHW = torch.zeros(2, 3, spec.height, spec.width, dtype=torch.uint8)
    with warnings.catch_warnings():
        # Of torch's own making: what it exports is compared with the model in tests.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
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


def _quantize(file: Path, floats: list[torch.Tensor]) -> Path:
    """Quantise all matrix products but those by the weights in `floats`."""
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
        nodes_to_exclude=_multiplying_by(prepared, floats),
    )
    return quantized


def _multiplying_by(file: Path, weights: list[torch.Tensor]) -> list[str]:
    """Return the names of nodes that multiply by one of the weights, which may be transposed."""
    import onnx  # noqa: PLC0415 - comes with the extra

    graph = onnx.load(str(file)).graph
    sizes = {weight.numel() for weight in weights}
    named = set()
    for one in graph.initializer:
        if math.prod(one.dims) in sizes:
            found = torch.from_numpy(onnx.numpy_helper.to_array(one).copy())
            if any(_are_same(found, weight) for weight in weights):
                named.add(one.name)
    return [node.name for node in graph.node if named & set(node.input)]


def _are_same(found: torch.Tensor, weight: torch.Tensor) -> bool:
    return torch.equal(found, weight) or torch.equal(found, weight.T)
