"""What is measured: transformers as people run it, and every engine and precision of ours.

Shapes: N images, C channels, H x W pixels, K labels, D embedding dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor

from worker.artifact.manifest import ORIGINAL, TOKENIZER, Artifact
from worker.contract.settings import Settings
from worker.engines.base import resolve_device, use_threads
from worker.engines.choose import LOADERS
from worker.malloc import disable_malloc_trim
from worker.model import concepts
from worker.model.precision import Precision

WITH_TEXT: Final = "transformers, text in every call"
PLAIN: Final = "transformers"
# On a CPU it has the first alone.
_EAGER: Final = ("fp32", "fp16")
Run = Callable[[Tensor], Tensor]


class Subject(msgspec.Struct, frozen=True):
    """A way to run the model. `name` is what the table calls it; baselines have no `engine`."""

    name: str
    precision: Precision
    engine: str | None = None


def subjects(
    precisions: tuple[Precision, ...], *, has_text: bool, engines: tuple[str, ...] = ()
) -> list[Subject]:
    """Return all that can be asked of a device with these precisions, baselines first.

    With `engines`, of those alone.
    """
    found = [Subject(WITH_TEXT, "fp32")] if has_text else []
    found += [Subject(PLAIN, "fp32")]
    found += [Subject(f"eager {one}", one, "eager") for one in precisions if one in _EAGER]
    found += [Subject(f"torchscript {one}", one, "torchscript") for one in precisions]
    found += [Subject(f"exported {one}", one, "exported") for one in precisions]
    found += [Subject(f"compile {one}", one, "compile") for one in precisions if one != "int8"]
    found += [Subject(f"onnx {one}", one, "onnx") for one in precisions if one in {"fp32", "int8"}]
    return [one for one in found if one.engine is None or one.engine in (engines or LOADERS)]


def has_text_tower(artifact: Artifact) -> bool:
    """Whether transformers embeds texts for it: a model of concepts looks words up instead."""
    original = artifact.path / ORIGINAL
    return artifact.manifest.kind == "zero-shot" and not concepts.is_one(original)


def open_subject(
    subject: Subject, artifact: Artifact, labels: tuple[str, ...], settings: Settings
) -> Run:
    """Return a function from uint8 NCHW to rows ND that does what the subject says.

    The artifact has the subject's precision. Engines run with the worker's memory settings, the
    baselines as Python starts.

    Raises:
        TaggerError: it cannot be run here.
    """
    use_threads(settings)
    if subject.engine is not None:
        disable_malloc_trim()
        return LOADERS[subject.engine](artifact, settings.device).embed
    # Only where it is run: transformers takes seconds to load.
    from worker.model.original import image_tower, original_model  # noqa: PLC0415

    device = resolve_device(settings.device, subject.precision)
    model = original_model(artifact).to(device)
    tower = image_tower(artifact, model).to(device)
    with_text = subject.name == WITH_TEXT
    texts = _text_in_every_call(artifact, model, labels, device) if with_text else None

    def run(pixels_NCHW: Tensor) -> Tensor:
        with torch.inference_mode():
            if texts is not None:
                texts()
            rows_ND: Tensor = tower(pixels_NCHW.to(device))
        return rows_ND

    return run


def _text_in_every_call(
    artifact: Artifact, model: Any, labels: tuple[str, ...], device: torch.device
) -> Callable[[], Tensor]:
    """Return what the usual zero-shot code does beside the images: all labels, in each call."""
    from worker.model.towers import TextTower  # noqa: PLC0415 - as in `open_subject`

    manifest = artifact.manifest
    tower = TextTower(model, is_masked=True).eval()
    tokenizer = Tokenizer.from_file(str(artifact.file(TOKENIZER)))
    prompts = [manifest.template.format(label) for label in labels]

    def embed() -> Tensor:
        encoded = tokenizer.encode_batch(prompts)
        ids_KL = torch.tensor([one.ids for one in encoded], device=device)
        mask_KL = torch.tensor([one.attention_mask for one in encoded], device=device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            texts_KD: Tensor = tower(ids_KL, mask_KL)
        return texts_KD

    return embed
