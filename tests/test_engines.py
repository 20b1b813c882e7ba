"""Where a model runs, and that it runs as exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_model import SIDE, build

from worker.engines.base import resolve_device
from worker.engines.torchscript import TorchScriptEngine, load_module
from worker.errors import ArtifactError, DeviceError
from worker.models.artifact import Artifact, open_artifact

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return open_artifact(build(tmp_path_factory.mktemp("model") / "tiny"))


def test_cpu_is_cpu() -> None:
    assert resolve_device("cpu", "fp32") == torch.device("cpu")


@no_cuda
def test_auto_without_cuda_is_cpu() -> None:
    assert resolve_device("auto", "fp32") == torch.device("cpu")


@cuda
def test_auto_with_cuda_is_the_first_device() -> None:
    assert resolve_device("auto", "fp16") == torch.device("cuda:0")


def test_an_int8_model_stays_on_the_cpu() -> None:
    assert resolve_device("auto", "int8") == torch.device("cpu")


@cuda
def test_an_int8_model_is_refused_on_cuda() -> None:
    with pytest.raises(DeviceError, match="int8"):
        resolve_device("cuda", "int8")


@no_cuda
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0"])
def test_cuda_where_there_is_none_is_a_clear_error(wanted: str) -> None:
    with pytest.raises(DeviceError, match=f"device {wanted} was asked for.*no CUDA device"):
        resolve_device(wanted, "fp32")


def test_a_device_beyond_the_last_is_a_clear_error() -> None:
    with pytest.raises(DeviceError, match="cuda:99 was asked for"):
        resolve_device("cuda:99", "fp32")


@pytest.mark.parametrize("wanted", ["", "gpu", "cuda:", "cuda:x", "CPU", "cpu:0"])
def test_another_word_is_no_device(wanted: str) -> None:
    with pytest.raises(DeviceError, match="none of auto, cpu, cuda"):
        resolve_device(wanted, "fp32")


def test_the_engine_gives_unit_embeddings(tiny: Artifact) -> None:
    engine = TorchScriptEngine.load(tiny, "cpu")
    red_NCHW = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    red_NCHW[:, 0] = 200
    assert engine.embed(red_NCHW).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert (engine.name, engine.device) == ("torchscript", "cpu")


@cuda
def test_pixels_follow_the_weights_to_the_gpu(tiny: Artifact) -> None:
    engine = TorchScriptEngine.load(tiny, "cuda")
    assert engine.device == "cuda:0"
    assert engine.embed(torch.ones(1, 3, SIDE, SIDE, dtype=torch.uint8)).device.type == "cuda"


def test_a_file_that_is_no_torchscript_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "image.pt").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"cannot load image\.pt of the model: [^\n]*$"):
        load_module(tmp_path / "image.pt", torch.device("cpu"))
