"""Where a model runs, and that every engine computes what transformers does."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from broken_models import raising
from conftest import HEAVY
from hub_models import FAMILIES, save
from structlog.testing import capture_logs
from tiny_model import SIDE, build

from worker.artifact.manifest import ORIGINAL, Artifact, open_artifact
from worker.contract.settings import Settings
from worker.engines.base import Engine, resolve_device
from worker.engines.choose import LOADERS, open_engine
from worker.engines.fallback import FallbackEngine
from worker.engines.onnx import OnnxEngine
from worker.engines.torchscript import TorchScriptEngine, load_module
from worker.errors import ArtifactError, DeviceError
from worker.export.on_first_use import export_to
from worker.export.tracing import pixels
from worker.labels.text_tower import TextEmbedder
from worker.model.precision import use_int8_engine

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
CPU = Settings(device="cpu")
# Cosines to transformers' own tower that an engine may have on the worst image.
BOUNDS = {"fp32": 0.99999, "bf16": 0.999, "int8": 0.999}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return open_artifact(build(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Artifact]:
    """Artifacts of tiny models, by family and precision, each made once."""
    root = tmp_path_factory.mktemp("artifacts")

    def find(family: str, precision: str = "fp32") -> Artifact:
        place = root / f"{family}-{precision}"
        if not place.exists():
            source = root / family
            if not source.exists():
                save(source, family)
            settings = msgspec.structs.replace(CPU, model=str(source), precision=precision)
            export_to(place, settings, None, lambda _: None)
        return open_artifact(place)

    return find


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cpu_is_cpu() -> None:
    assert resolve_device("cpu", "fp32") == torch.device("cpu")


@no_cuda
def test_auto_without_cuda_is_cpu() -> None:
    assert resolve_device("auto", "fp32") == torch.device("cpu")


@cuda
def test_auto_with_cuda_is_the_first_device() -> None:
    assert resolve_device("auto", "fp16") == torch.device("cuda:0")


def test_what_torch_says_once_of_int8_tensors_is_kept_from_users() -> None:
    use_int8_engine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8)


def test_an_int8_model_stays_on_the_cpu() -> None:
    assert resolve_device("auto", "int8") == torch.device("cpu")


def test_an_fp16_model_is_refused_on_the_cpu() -> None:
    with pytest.raises(DeviceError, match="fp16 model runs on CUDA alone; export one in bf16"):
        resolve_device("cpu", "fp16")


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
@pytest.mark.parametrize("name", ["torchscript", "exported", "eager", "compile"])
def test_pixels_follow_the_weights_to_the_gpu(exported: Callable[..., Artifact], name: str) -> None:
    engine = LOADERS[name](exported("chinese_clip"), "cuda")
    assert engine.device == "cuda:0"
    pixels_NCHW = images(exported("chinese_clip"), 1)
    on_cpu = LOADERS[name](exported("chinese_clip"), "cpu").embed(pixels_NCHW)
    for _ in range(4):
        assert torch.allclose(engine.embed(pixels_NCHW).cpu(), on_cpu, atol=1e-3)


def test_a_file_that_is_no_torchscript_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "image.pt").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"cannot load image\.pt of the model: [^\n]*$"):
        load_module(tmp_path / "image.pt", torch.device("cpu"))


# Towers as tiny as these round coarsely; int8 of all families is compared at full size.
@pytest.mark.parametrize(
    ("engine", "precision", "family"),
    [
        *(("onnx", "fp32", family) for family in FAMILIES),
        *(("torchscript", precision, "chinese_clip") for precision in BOUNDS),
        ("onnx", "int8", "chinese_clip"),
        *(("exported", "fp32", family) for family in ("siglip", "vit")),
        *(("exported", precision, "chinese_clip") for precision in ("bf16", "int8")),
        ("eager", "int8", "chinese_clip"),
    ],
)
def test_every_engine_agrees_with_transformers(
    exported: Callable[..., Artifact], engine: str, precision: str, family: str
) -> None:
    artifact = exported(family, precision)
    # What eager computes is transformers' own, whatever the artifact's precision.
    bound = BOUNDS["fp32" if engine == "eager" else precision]
    assert worst_cosine(LOADERS[engine](artifact, "cpu"), exported(family)) >= bound


@HEAVY
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: g++")
def test_the_compiled_engine_agrees_with_transformers(exported: Callable[..., Artifact]) -> None:
    engine = LOADERS["compile"](exported("chinese_clip"), "cpu")
    assert worst_cosine(engine, exported("chinese_clip")) >= BOUNDS["fp32"]


def test_an_onnx_file_is_made_once(exported: Callable[..., Artifact], cache: Path) -> None:
    artifact = exported("vit")
    OnnxEngine.load(artifact, "cpu")
    (made,) = (cache / "wanwu-tagger" / "onnx").iterdir()
    written = made.stat().st_mtime_ns
    OnnxEngine.load(artifact, "cpu")
    assert made.stat().st_mtime_ns == written
    assert made.name.startswith(artifact.id)


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("compile", "int8", "is int8, which torch.compile does not run: export it in fp32 or bf16"),
        ("onnx", "bf16", "is bf16; the engine onnx runs fp32, int8"),
    ],
)
def test_an_engine_that_cannot_run_a_precision_says_so(
    exported: Callable[..., Artifact], engine: str, precision: str, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        LOADERS[engine](exported("chinese_clip", precision), "cpu")


def test_without_a_compiler_the_compiled_engine_says_what_to_install(
    exported: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match=r"needs a C\+\+ compiler"):
        LOADERS["compile"](exported("chinese_clip"), "cpu")


def test_an_artifact_without_transformers_weights_runs_on_torchscript_alone(
    tiny: Artifact,
) -> None:
    assert open_engine(tiny, CPU).name == "torchscript"
    with pytest.raises(ArtifactError, match=f"holds no {ORIGINAL}/config.json"):
        open_engine(tiny, msgspec.structs.replace(CPU, engine="eager"))


class Offset(torch.nn.Module):
    """Makes something of its own on each run, as text towers make masks and positions."""

    def forward(self, rows_ND: torch.Tensor) -> torch.Tensor:
        return rows_ND + torch.zeros(rows_ND.shape, device=rows_ND.device)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_a_traced_module_makes_lies_where_its_inputs_do(tmp_path: Path) -> None:
    file = tmp_path / "offset.pt"
    torch.jit.trace(Offset().eval(), torch.ones(2, 3)).save(str(file))  # type: ignore[no-untyped-call]
    # Computes shapes and devices only: another device than the one that it was traced on.
    elsewhere = torch.device("meta")
    with pytest.raises(RuntimeError):
        load_module(file, torch.device("cpu"))(torch.ones(2, 3, device=elsewhere))
    assert load_module(file, elsewhere)(torch.ones(2, 3, device=elsewhere)).device == elsewhere


@cuda
def test_texts_are_embedded_on_the_gpu_as_on_the_cpu(exported: Callable[..., Artifact]) -> None:
    artifact = exported("chinese_clip")
    message = ["猫", "a dog", "红色的苹果"]
    on_gpu = TextEmbedder(artifact, "cuda:0").embed(message)
    assert np.allclose(on_gpu, TextEmbedder(artifact, "cpu").embed(message), atol=1e-4)


def test_threads_are_those_of_the_settings(tiny: Artifact) -> None:
    before = torch.get_num_threads()
    try:
        open_engine(tiny, msgspec.structs.replace(CPU, threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_when_torchscript_raises_eager_answers_from_then_on(
    exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    sound = exported("chinese_clip")
    engine = open_engine(raising(sound, tmp_path / "raising"), CPU)
    wanted = TorchScriptEngine.load(sound, "cpu").embed(images(sound, 3))
    with capture_logs() as logs:
        for _ in range(2):
            assert torch.allclose(engine.embed(images(sound, 3)), wanted, atol=1e-5)
    (warning,) = [one for one in logs if one["log_level"] == "warning"]
    assert warning["event"] == "engine.fallback"
    assert "the graph is broken" in warning["error"]
    assert isinstance(engine, FallbackEngine)
    assert (engine.name, engine.device, engine.fallbacks) == ("eager", "cpu", 1)


def test_a_batch_that_no_engine_can_answer_fails_and_changes_nothing(
    exported: Callable[..., Artifact],
) -> None:
    engine = open_engine(exported("chinese_clip"), CPU)
    with pytest.raises(RuntimeError):
        engine.embed(torch.zeros(1, 7, 48, 48, dtype=torch.uint8))
    assert (engine.name, getattr(engine, "fallbacks", None)) == ("torchscript", 0)


def images(artifact: Artifact, count: int) -> torch.Tensor:
    spec = artifact.manifest.preprocessing
    return pixels(count, spec.height, spec.width)


def worst_cosine(engine: Engine, artifact: Artifact) -> float:
    """The worst agreement with the eager engine of `artifact`, over several batch sizes."""
    eager, worst = LOADERS["eager"](artifact, "cpu"), 1.0
    for size in (1, 2, 4):
        batch = images(artifact, size)
        found, wanted = (one.embed(batch).double().numpy() for one in (engine, eager))
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        worst = min(worst, float(((found * wanted).sum(1) / lengths).min()))
    return worst
