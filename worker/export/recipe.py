"""A model's processor and tokenizer -> the preprocessing that the worker repeats."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from worker.artifact.manifest import Preprocessing, Source
from worker.contract.i18n import gettext_noop as N_
from worker.errors import ExportError
from worker.export.class_names import class_names
from worker.export.reference import values_of
from worker.export.synthetic import picture
from worker.export.timm_transforms import timm_preprocessing
from worker.images.resize import fit
from worker.model.hub import Loaded

# By Pillow's numbers, which transformers' configs use.
_INTERPOLATIONS: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_RESCALE: Final = 1 / 255
# Chinese-CLIP's text tower could read 512 tokens; it was trained on 52 (its own repository).
# AltCLIP's could read 512, and was trained on 77 (its paper, section 4).
_TRAINED_TOKENS: Final = {"chinese_clip": 52, "altclip": 77}
_TEMPLATES: Final = {"chinese_clip": "这是一张{}的照片"}
_TEMPLATE: Final = "This is a photo of {}."
# Two resizers, Pillow and torchvision, may round differently; a level is 1 of 255.
_LEVELS: Final = 1.5
# What transformers calls a classifier whose classes do not exclude each other.
_SEVERAL_LABELS: Final = "multi_label_classification"
# One of them leaves half a pixel beside most cuts.
_SAMPLES: Final = ((640, 480), (300, 500), (401, 300), (512, 512))


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact says beside its weights. Without texts, `max_text_tokens` is 0."""

    name: str
    kind: str = "zero-shot"
    logit_bias: float | None = None
    source: Source
    preprocessing: Preprocessing
    max_text_tokens: int = 0
    template: str = "{}"
    labels: tuple[str, ...] = ()
    notice: str | None = None


def recipe_of(loaded: Loaded) -> Recipe:
    """Return the recipe of a transformers model, its preprocessing compared with the processor's.

    Raises:
        ExportError: the processor does something that the worker cannot repeat.
    """
    config, kind = loaded.model.config, "zero-shot" if loaded.tokenizer else "classifier"
    preprocessing = preprocessing_of(loaded.processor)
    _compare(preprocessing, loaded.processor)
    common: dict[str, Any] = {
        "name": loaded.source.id.rpartition("/")[2],
        "kind": kind,
        "source": loaded.source,
        "preprocessing": preprocessing,
    }
    if kind == "classifier":
        several = getattr(config, "problem_type", None) == _SEVERAL_LABELS
        bias = 0.0 if several else None
        return Recipe(**common, labels=class_names(config), logit_bias=bias)
    model = loaded.model
    bias = getattr(model, "logit_bias", None)
    return Recipe(
        **common,
        logit_bias=None if bias is None else float(bias.detach()),
        max_text_tokens=_text_tokens(config, loaded.tokenizer),
        template=_TEMPLATES.get(config.model_type, _TEMPLATE),
    )


def preprocessing_of(processor: Any) -> Preprocessing:
    """Return what an image processor of transformers does.

    Raises:
        ExportError: it does not resize to one size, or scales values in its own way.
    """
    if (transforms := getattr(processor, "val_transforms", None)) is not None:
        return timm_preprocessing(transforms)
    if not getattr(processor, "do_resize", False):
        raise ExportError(
            N_("the model's image processor does not resize, so images differ in size")
        )
    factor = getattr(processor, "rescale_factor", _RESCALE)
    if not getattr(processor, "do_rescale", True) or not np.isclose(factor, _RESCALE):
        raise ExportError(
            N_("the model's image processor scales by {factor:g}, not by 1/255"), factor=factor
        )
    shown = bool(getattr(processor, "do_normalize", True))
    return Preprocessing(
        **_geometry(processor),
        interpolation=_INTERPOLATIONS[int(processor.resample)],
        mean=tuple(processor.image_mean) if shown else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if shown else (1.0, 1.0, 1.0),
    )


def _geometry(processor: Any) -> dict[str, Any]:
    size = processor.size
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    if size.height and size.width:
        if crop is None or (crop.height, crop.width) == (size.height, size.width):
            return {"height": size.height, "width": size.width, "resize": "squash"}
    elif size.shortest_edge and not size.longest_edge and crop and crop.height and crop.width:
        if max(crop.height, crop.width) <= size.shortest_edge:
            edge = size.shortest_edge if size.shortest_edge != crop.height else None
            side = {"height": crop.height, "width": crop.width, "edge": edge}
            return side | {"resize": "shortest_edge"}
    elif size.shortest_edge and (share := getattr(processor, "crop_pct", None)):
        return _convnext(size.shortest_edge, share)
    raise ExportError(
        N_("the model's image processor resizes in a way that is not known here: {size}, {crop}"),
        size=size,
        crop=crop,
    )


def _convnext(side: int, share: float) -> dict[str, Any]:
    """Return what ConvNeXt's processor means by its `crop_pct`: it cuts only small images."""
    square = {"height": side, "width": side}
    if side >= 384:  # noqa: PLR2004 - that processor's own constant
        return square | {"resize": "squash"}
    return square | {"resize": "shortest_edge", "edge": int(side / share)}


def _compare(spec: Preprocessing, processor: Any) -> None:
    """Refuse a processor whose pixels are not those that the worker will make."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    for number, size in enumerate(_SAMPLES):
        image = picture(size, seed=number)
        theirs = np.asarray(values_of(processor, image))
        ours = (fit(np.array(image), spec).astype(np.float64) / 255 - mean) / std
        if theirs.shape != ours.shape:
            raise ExportError(
                N_("the model's image processor gives {theirs}, not {ours}"),
                theirs=theirs.shape,
                ours=ours.shape,
            )
        levels = float((np.abs(theirs - ours) * std).max() * 255)
        if levels > _LEVELS:
            raise ExportError(
                N_(
                    "the model's image processor does more than is known here: an image of "
                    "{width} x {height} differs by {levels:.0f} grey levels"
                ),
                width=size[0],
                height=size[1],
                levels=levels,
            )


def _text_tokens(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a row of text has: what the tower was trained on."""
    most = int(min(config.text_config.max_position_embeddings, tokenizer.model_max_length))
    return min(most, _TRAINED_TOKENS.get(config.model_type, most))
