"""Chinese-CLIP -> artifact: both towers traced, compared with the model, described in a manifest.

Shapes: N images or texts, C channels, H x W pixels, L tokens, D embedding dimensions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from worker.errors import ArtifactError
from worker.models.artifact import (
    FORMAT,
    IMAGE_TOWER,
    MANIFEST,
    TEXT_TOWER,
    TOKENIZER,
    Preprocessing,
    Source,
)

LABELS: Final = "labels.txt"
TOLERANCE: Final = 1e-4
# Traced at one size and compared at these: a batch size frozen into the graph would show.
_TRACED_BATCH: Final = 2
_CHECKED_BATCHES: Final = (1, 2, 3, 4, 8)


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact says beside its weights; `mean` and `std` are of values in 0..1."""

    name: str
    source: Source
    preprocessing: Preprocessing
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_text_tokens: int
    template: str
    labels: tuple[str, ...] = ()
    notice: str | None = None


class ImageTower(nn.Module):
    """uint8 NCHW -> float32 unit embeddings ND; normalisation is part of the graph."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, model: Any, recipe: Recipe) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.projection = model.visual_projection
        self.register_buffer("mean_C11", torch.tensor(recipe.mean).view(3, 1, 1))
        self.register_buffer("std_C11", torch.tensor(recipe.std).view(3, 1, 1))

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Embed images."""
        scaled = (pixels_NCHW.to(torch.float32) / 255 - self.mean_C11) / self.std_C11
        pooled = self.vision_model(pixel_values=scaled, return_dict=False)[1]
        return F.normalize(self.projection(pooled), dim=-1)


class TextTower(nn.Module):
    """Token ids NL and attention mask NL, both int64 -> float32 unit embeddings ND."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text_model = model.text_model
        self.projection = model.text_projection

    def forward(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """Embed texts by the state of their first token, as Chinese-CLIP does."""
        states_NLD = self.text_model(input_ids=ids_NL, attention_mask=mask_NL, return_dict=False)[0]
        return F.normalize(self.projection(states_NLD[:, 0]), dim=-1)


def export_zero_shot(model: Any, tokenizer: Any, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Write the artifact of a transformers `ChineseCLIPModel` to `out` and return its manifest.

    An artifact that stands there already is replaced, but only by a whole one.

    Raises:
        ArtifactError: the traced towers do not agree with the model within `TOLERANCE`, or labels
            of equal length collapse to the same tokens.
        OSError: the directory cannot be written.
    """
    model = model.eval().to("cpu", torch.float32)
    _check_tokens(tokenizer, recipe)
    with _beside(out) as directory:
        parity = {
            "image_max_abs": _export_image(ImageTower(model, recipe), recipe, directory),
            "text_max_abs": _export_text(TextTower(model), tokenizer, recipe, directory),
        }
        tokenizer.save_pretrained(directory / Path(TOKENIZER).parent)
        if recipe.labels:
            (directory / LABELS).write_text("\n".join(recipe.labels) + "\n", encoding="utf-8")
        manifest = _manifest(model, recipe, parity, directory)
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def _check_tokens(tokenizer: Any, recipe: Recipe) -> None:
    """Refuse a tokenizer without its vocabulary: it would give all labels one embedding."""
    rows = [tuple(tokenizer(label)["input_ids"]) for label in recipe.labels]
    if len(set(rows)) < len(rows):
        msg = f"{len(rows)} labels give only {len(set(rows))} different rows of tokens"
        raise ArtifactError(msg)


def _export_image(tower: nn.Module, recipe: Recipe, directory: Path) -> float:
    shape_CHW = (3, recipe.preprocessing.height, recipe.preprocessing.width)
    dice = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(0, 256, (size, *shape_CHW), generator=dice, dtype=torch.uint8),)
        for size in _CHECKED_BATCHES
    ]
    return _export(tower, batches, directory / IMAGE_TOWER)


def _export_text(tower: nn.Module, tokenizer: Any, recipe: Recipe, directory: Path) -> float:
    labels = recipe.labels or ("猫", "狗")
    texts = [recipe.template.format(labels[n % len(labels)]) for n in range(max(_CHECKED_BATCHES))]
    tokens = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=recipe.max_text_tokens,
        return_tensors="pt",
    )
    ids_NL, mask_NL = tokens["input_ids"], tokens["attention_mask"]
    batches = [(ids_NL[:size], mask_NL[:size]) for size in _CHECKED_BATCHES]
    return _export(tower, batches, directory / TEXT_TOWER)


def _export(tower: nn.Module, batches: Sequence[tuple[Tensor, ...]], file: Path) -> float:
    """Trace, freeze and save a tower; return its largest deviation from the module, absolute."""
    tower.eval()
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated upstream and still the fastest to load and run from a file.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        example = next(batch for batch in batches if len(batch[0]) == _TRACED_BATCH)
        traced = torch.jit.freeze(torch.jit.trace(tower, example))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(file))
        saved = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        deviation = max(float((saved(*b) - tower(*b)).abs().max()) for b in batches)
    if not deviation <= TOLERANCE:
        msg = f"{file.name} deviates from the model by {deviation:.2g}, more than {TOLERANCE:g}"
        raise ArtifactError(msg)
    return deviation


def _manifest(
    model: Any, recipe: Recipe, parity: dict[str, float], directory: Path
) -> dict[str, Any]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        "format": FORMAT,
        "name": recipe.name,
        "kind": "zero-shot",
        "source": msgspec.to_builtins(recipe.source),
        "files": {
            path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
        "preprocessing": msgspec.to_builtins(recipe.preprocessing)
        | {"mean": recipe.mean, "std": recipe.std},
        "embedding_dim": int(model.config.projection_dim),
        "logit_scale": float(model.logit_scale.detach().exp()),
        "max_text_tokens": recipe.max_text_tokens,
        "template": recipe.template,
        "labels": LABELS if recipe.labels else None,
        "precision": "fp32",
        "batch_shapes": list(_CHECKED_BATCHES),
        "parity": parity,
        "speed": {},
        "torch": torch.__version__,
        "notice": recipe.notice,
    }


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yield a directory that takes the place of `out` when the block succeeds, else vanishes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
