"""transformers model -> artifact: both towers traced, compared with the model, described.

Shapes: N images or texts, C channels, H x W pixels, L tokens, D embedding dimensions.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import torch

from worker.artifact.manifest import (
    FORMAT,
    IMAGE_TOWER,
    MANIFEST,
    Manifest,
)
from worker.contract.i18n import Message
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import os_reason
from worker.engines.infer import infer
from worker.engines.torchscript import TorchScriptEngine, load_module
from worker.errors import ExportError
from worker.export.fast_decode import Agreement, agreement
from worker.export.pictures import compare_pictures
from worker.export.recipe import Recipe, recipe_of
from worker.export.reference import image_rows, values_of_fitted
from worker.export.texts import export_texts
from worker.export.tracing import BATCHES, TracedTower, pixels, trace_and_measure
from worker.model.hub import Found, Loaded, load
from worker.model.original import keep
from worker.model.precision import Precision, check, convert, supported, use_int8_engine
from worker.model.rewrite import for_inference
from worker.model.towers import ClassifierTower, ImageTower

LABELS: Final = "labels.txt"
Echo = Callable[[str], None]


def export_found(
    found: Found,
    out: Path,
    *,
    precision: Precision | Literal["auto"] = "auto",
    device: torch.device,
    echo: Echo = lambda _: None,
) -> Manifest:
    """Write the artifact of a Hugging Face model to `out`; return its manifest.

    `echo` is called with each step, as a sentence for a person.

    Raises:
        ExportError: the model cannot be exported, or the artifact does not agree with it.
        DeviceError: the device does not have this precision.
    """
    if precision != "auto":
        check(precision, device)
    echo(_("loading {model}").format(model=found.source.id))
    loaded = load(found)
    recipe = recipe_of(loaded)
    tried = supported(device) if precision == "auto" else (precision,)
    return export_model(loaded, recipe, out, precisions=tried, device=device, echo=echo)


def export_model(
    loaded: Loaded,
    recipe: Recipe,
    out: Path,
    *,
    precisions: tuple[Precision, ...] = ("fp32",),
    device: torch.device | None = None,
    echo: Echo = lambda _: None,
) -> Manifest:
    """Write the artifact of a model in the fastest of the precisions that agree with it.

    An artifact that exists there already is replaced, but only by a complete one.

    Raises:
        ExportError: the towers cannot be traced, or do not agree with the model.
    """
    model = loaded.model.eval().to("cpu", torch.float32)
    device = device or torch.device("cpu")
    with _beside(out) as directory:
        traced_tower = _export_image(loaded, recipe, directory, precisions, device, echo)
        parity: dict[str, Any] = traced_tower.parity()
        scaled = _compare_decoding(traced_tower, recipe, directory, device)
        echo(_("fast decoding: {result}").format(result=scaled))
        if loaded.processor is not None:
            engine = _engine(traced_tower, directory, device)
            parity["own_processor_min_cosine"] = compare_pictures(loaded, recipe, engine)
        if loaded.tokenizer is not None:
            echo(_("tracing the text tower"))
            parity["text_max_abs"] = export_texts(loaded, recipe, directory)
        echo(_("keeping transformers' own weights, for the other engines"))
        keep(model, directory)
        if recipe.labels:
            (directory / LABELS).write_text("\n".join(recipe.labels) + "\n", encoding="utf-8")
        manifest = _manifest(model, recipe, traced_tower, parity | scaled.parity(), directory)
        manifest["fast_decode"] = scaled.holds
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
        return msgspec.convert(manifest, Manifest)


def _export_image(
    loaded: Loaded,
    recipe: Recipe,
    directory: Path,
    precisions: tuple[Precision, ...],
    device: torch.device,
    echo: Echo,
) -> TracedTower:
    """Trace the image tower in each precision, the nearest to the model first; keep the best."""
    spec = recipe.preprocessing
    kind = ClassifierTower if recipe.kind == "classifier" else ImageTower
    tower = kind(loaded.model, spec.mean, spec.std).eval()
    images_NCHW = pixels(max(BATCHES), spec.height, spec.width)
    reference_ND = _reference(loaded, tower, images_NCHW)
    rewritten = for_inference(copy.deepcopy(tower))
    best: TracedTower | None = None
    for precision in precisions:
        echo(_("tracing the image tower in {precision}").format(precision=precision))
        traced_tower = trace_and_measure(
            convert(rewritten, precision, device),
            precision,
            images_NCHW.to(device),
            reference_ND,
            directory / f"{precision}.pt",
        )
        echo(str(traced_tower))
        if traced_tower.beats(best):
            best = traced_tower
    if best is None:
        raise ExportError(
            N_("the traced image tower does not agree with the model: {trial}"), trial=traced_tower
        )
    best.file.rename(directory / IMAGE_TOWER)
    for precision in precisions:
        (directory / f"{precision}.pt").unlink(missing_ok=True)
    return best


def _reference(loaded: Loaded, tower: Any, images_NCHW: torch.Tensor) -> torch.Tensor:
    """Return the rows ND that the model gives for pixels, prepared by its own processor."""
    if loaded.processor is None:
        with torch.no_grad():
            rows_ND: torch.Tensor = tower(images_NCHW)
        return rows_ND
    return image_rows(loaded.model, values_of_fitted(loaded.processor, images_NCHW))


def _compare_decoding(
    traced_tower: TracedTower, recipe: Recipe, directory: Path, device: torch.device
) -> Agreement:
    """Compare the exported image tower's embeddings after fast and after exact decoding."""
    engine = _engine(traced_tower, directory, device)
    return agreement(partial(infer, engine), recipe.preprocessing)


def _engine(traced_tower: TracedTower, directory: Path, device: torch.device) -> TorchScriptEngine:
    """Return what runs the exported image tower, as a worker does."""
    if traced_tower.precision == "int8":
        use_int8_engine()
    module = load_module(directory / IMAGE_TOWER, device)
    return TorchScriptEngine(module, device, traced_tower.precision)


def _manifest(
    model: Any, recipe: Recipe, traced_tower: TracedTower, parity: dict[str, Any], directory: Path
) -> dict[str, Any]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    scale = getattr(model, "logit_scale", None)
    return {
        "format": 1 if recipe.logit_bias is None else FORMAT,
        "name": recipe.name,
        "kind": recipe.kind,
        "source": msgspec.to_builtins(recipe.source),
        "files": {
            path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
        "preprocessing": msgspec.to_builtins(recipe.preprocessing),
        "embedding_dim": traced_tower.dim,
        "logit_scale": 1.0 if scale is None else float(scale.detach().exp()),
        **({} if recipe.logit_bias is None else {"logit_bias": recipe.logit_bias}),
        "max_text_tokens": recipe.max_text_tokens,
        "template": recipe.template,
        "labels": LABELS if recipe.labels else None,
        "precision": traced_tower.precision,
        "batch_shapes": list(BATCHES),
        "parity": parity,
        "speed": traced_tower.speed(),
        "torch": torch.__version__,
        "notice": recipe.notice,
    }


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yield a directory that takes the place of `out` when the block succeeds, else vanishes."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as e:
        raise ExportError(
            N_("{out} cannot be written: {reason}"), out=out, reason=os_reason(e)
        ) from e
    try:
        yield fresh
        fresh.chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    except OSError as e:
        full = Message(N_("the disk is full"))
        reason = full if e.errno == errno.ENOSPC else os_reason(e)
        raise ExportError(N_("{out} cannot be written: {reason}"), out=out, reason=reason) from e
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
