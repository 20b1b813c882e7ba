"""transformers model -> artifact: both towers exported, compared with the model, described.

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
from typing import Any, Final, Literal, NamedTuple

import msgspec
import torch

from worker.artifact.manifest import (
    FORMAT,
    TOWERS,
    Manifest,
)
from worker.artifact.model_names import MANIFEST
from worker.contract.i18n import Message
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import os_reason
from worker.engines.base import Engine
from worker.engines.infer import infer
from worker.engines.programs import HAS_TORCHSCRIPT
from worker.errors import ExportError
from worker.export.choice import Choice
from worker.export.fast_decode import agreement
from worker.export.gate import Gate
from worker.export.judgement import judge_of
from worker.export.pictures import compare_pictures
from worker.export.recipe import Recipe, recipe_of
from worker.export.reference import image_rows, values_of_fitted
from worker.export.second_engine import Added, Trial, add_engine, open_exported
from worker.export.texts import export_texts
from worker.export.tracing import BATCHES, TracedTower, pixels
from worker.export.variant import Jury, variant
from worker.model.hub import Found, Loaded, load
from worker.model.original import keep
from worker.model.precision import Precision, check, supported
from worker.model.rewrite import for_inference
from worker.model.sample import batches_of, sample
from worker.model.towers import ClassifierTower, ImageTower

LABELS: Final = "labels.txt"
# One alone: a file of each tower costs as much as its weights, and workers read all at each start.
DEFAULT_ENGINES: Final = ("torchscript",) if HAS_TORCHSCRIPT else ("exported",)
Echo = Callable[[str], None]


def export_found(
    found: Found,
    out: Path,
    *,
    precision: Precision | Literal["auto"] = "auto",
    device: torch.device,
    engines: tuple[str, ...] = DEFAULT_ENGINES,
    gate: Gate | None = None,
    echo: Echo = lambda _: None,
) -> Manifest:
    """Write the artifact of a Hugging Face model to `out`; return its manifest.

    It gets a file of each tower for each of `engines`: `torchscript`, `exported`. `echo` is called
    with each step, as a sentence for a person. The `gate` is for precisions below float32.

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
    wanted = Wanted(tried, device, engines, gate or Gate())
    return export_model(loaded, recipe, out, wanted, echo)


class Wanted(NamedTuple):
    """What an artifact is exported in and for; the first engine decides on the precision."""

    precisions: tuple[Precision, ...] = ("fp32",)
    device: torch.device = torch.device("cpu")
    engines: tuple[str, ...] = DEFAULT_ENGINES
    gate: Gate = Gate()


def export_model(
    loaded: Loaded,
    recipe: Recipe,
    out: Path,
    wanted: Wanted | None = None,
    echo: Echo = lambda _: None,
) -> Manifest:
    """Write the artifact of a model in the fastest of the precisions that agree with it.

    An engine beside the first is left out where it cannot be had. An artifact that exists there
    already is replaced, but only by a complete one.

    Raises:
        ExportError: the towers cannot be exported, or do not agree with the model.
    """
    wanted = wanted or Wanted()
    model = loaded.model.eval().to("cpu", torch.float32)
    with _beside(out) as directory:
        images = _export_images(loaded, recipe, wanted, directory, echo)
        parity: dict[str, Any] = images.parity()
        scaled = agreement(partial(infer, images.engine), recipe.preprocessing)
        echo(_("fast decoding: {result}").format(result=scaled))
        if loaded.processor is not None:
            least = compare_pictures(loaded, recipe, images.engine, wanted.gate.accepted)
            parity["own_processor_min_cosine"] = least
        if loaded.tokenizer is not None:
            echo(_("exporting the text tower"))
            parity["text_max_abs"] = export_texts(loaded, recipe, directory, images.engines)
        echo(_("keeping transformers' own weights, for the other engines"))
        keep(model, directory)
        if recipe.labels:
            (directory / LABELS).write_text("\n".join(recipe.labels) + "\n", encoding="utf-8")
        manifest = _manifest(model, recipe, images, parity | scaled.parity(), directory)
        manifest["fast_decode"] = scaled.holds
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
        return msgspec.convert(manifest, Manifest)


class _Images(NamedTuple):
    """The exported image tower: what runs it, and what was found of it."""

    tower: TracedTower
    engine: Engine
    choice: Choice
    other: Added | None

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that have a file."""
        return (self.engine.name, *([self.other.name] if self.other else []))

    def parity(self) -> dict[str, Any]:
        """Return the manifest's entries about agreement."""
        return self.tower.parity() | (self.other.parity() if self.other else {})

    def speed(self) -> dict[str, Any]:
        """Return the manifest's entries about speed."""
        return (
            self.tower.speed()
            | self.choice.speed()
            | (self.other.speed(self.engine.name) if self.other else {})
        )

    def fastest(self) -> str | None:
        """Return the faster engine of two that were measured."""
        if self.other is None:
            return None
        return self.other.name if self.other.is_faster else self.engine.name


def _export_images(
    loaded: Loaded, recipe: Recipe, wanted: Wanted, directory: Path, echo: Echo
) -> _Images:
    """Export the image tower in each precision, the nearest to the model first; keep the best.

    That is then exported for the other engine, too.
    """
    spec, device, first = recipe.preprocessing, wanted.device, wanted.engines[0]
    kind = ClassifierTower if recipe.kind == "classifier" else ImageTower
    tower = kind(loaded.model, spec.mean, spec.std).eval()
    images_NCHW = pixels(max(BATCHES), spec.height, spec.width)
    reference_ND = _reference(loaded, tower, images_NCHW)
    trial = Trial(directory, images_NCHW.to(device), reference_ND, echo)
    jury = None if wanted.precisions == ("fp32",) else _jury(loaded, recipe, tower, wanted, echo)
    rewritten = for_inference(copy.deepcopy(tower))
    choice = Choice(trial, first)
    for precision in wanted.precisions:
        echo(_("exporting the image tower in {precision}").format(precision=precision))
        choice.add(variant(rewritten, precision, device, jury))
    best, made = choice.best()
    best.file.rename(directory / TOWERS[first])
    engine = open_exported(first, directory, device, best.precision)
    others = (add_engine(name, engine, made, trial) for name in wanted.engines[1:])
    other = next(others, None)
    for left_over in directory.glob(f"*-{TOWERS[first]}"):
        left_over.unlink()
    return _Images(best, engine, choice, other)


def _jury(loaded: Loaded, recipe: Recipe, tower: Any, wanted: Wanted, echo: Echo) -> Jury:
    """Let the model itself answer pictures, and find the labels that it would be asked for."""
    gate = wanted.gate
    pictures = sample(recipe.preprocessing, gate.pictures, echo)
    echo(
        _("calibrating on {count} pictures, judging by {views} views of others").format(
            count=len(pictures.calibrated_on), views=len(pictures.judged_by)
        )
    )
    wanted_ND = torch.cat(
        [_reference(loaded, tower, batch) for batch in batches_of(pictures.judged_by)]
    )
    return Jury(pictures, judge_of(loaded, recipe, wanted_ND), gate.accepted)


def _reference(loaded: Loaded, tower: Any, images_NCHW: torch.Tensor) -> torch.Tensor:
    """Return the rows ND that the model gives for pixels, prepared by its own processor."""
    if loaded.processor is None:
        with torch.no_grad():
            rows_ND: torch.Tensor = tower(images_NCHW)
        return rows_ND
    return image_rows(loaded.model, values_of_fitted(loaded.processor, images_NCHW))


def _manifest(
    model: Any, recipe: Recipe, images: _Images, parity: dict[str, Any], directory: Path
) -> dict[str, Any]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    scale = getattr(model, "logit_scale", None)
    return {
        "format": _format(recipe, images),
        "name": recipe.name,
        "kind": recipe.kind,
        "source": msgspec.to_builtins(recipe.source),
        "files": {
            path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
        "preprocessing": msgspec.to_builtins(recipe.preprocessing),
        "embedding_dim": images.tower.dim,
        "logit_scale": 1.0 if scale is None else float(scale.detach().exp()),
        **({} if recipe.logit_bias is None else {"logit_bias": recipe.logit_bias}),
        "max_text_tokens": recipe.max_text_tokens,
        "template": recipe.template,
        "labels": LABELS if recipe.labels else None,
        "precision": images.tower.precision,
        "batch_shapes": list(BATCHES),
        "parity": parity,
        "speed": images.speed(),
        **({} if images.other is None else {"engine": images.fastest()}),
        "torch": torch.__version__,
        "notice": recipe.notice,
    }


def _format(recipe: Recipe, images: _Images) -> int:
    """Return the oldest format that has all that is needed."""
    if "torchscript" not in images.engines:
        return FORMAT
    return 1 if recipe.logit_bias is None else 2


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
