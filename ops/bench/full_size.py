"""A Chinese-CLIP B/16 of full size with random weights, as the hub would hand it out.

It costs what the real one costs and knows nothing: for speed, memory and agreement, not for tags.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from outliers import with_outliers
from transformers import (
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
)

from worker.contract.settings import Settings
from worker.export.on_first_use import export_to

IMAGE_SIZE: Final = 224
DIM: Final = 512
# The size of BERT's Chinese vocabulary, here of ASCII and the first characters of Unicode's block.
VOCABULARY: Final = 21128
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ASCII: Final = range(0x21, 0x7F)
_FIRST_CHARACTER: Final = 0x4E00
_MATRIX: Final = 2


def save(directory: Path, *, outliers: bool = False) -> Path:
    """Write model, image processor and tokenizer to the directory; always the same.

    With outliers, its weights are as hard to round as trained ones.
    """
    torch.manual_seed(0)
    model, *others = parts()
    for part in (with_outliers(model) if outliers else model, *others):
        part.save_pretrained(directory)
    return directory


def exported(
    model: str | None, precision: str, place: Path, device: str = "cpu", *, outliers: bool = False
) -> tuple[str, Path]:
    """Export a directory or id, or else this model; return what it was and where it is.

    This model goes to `place`, others where `worker start` keeps what it exports.

    Raises:
        ExportError: it cannot be exported.
    """
    directory = model or str(save(place / "full-size", outliers=outliers))
    settings = Settings.from_env(model=directory, precision=precision, device=device)
    out = None if model else place / "artifact"
    return directory, export_to(out, settings, None, partial(print, file=sys.stderr))


def parts() -> tuple[Any, Any, Any]:
    """Return the model, its image processor and its tokenizer."""
    config = ChineseCLIPConfig(
        text_config={"vocab_size": VOCABULARY},
        vision_config={"image_size": IMAGE_SIZE, "patch_size": 16, "projection_dim": DIM},
        projection_dim=DIM,
    )
    model = ChineseCLIPModel(config)
    spread(model)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = ChineseCLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    return model, processor, BertTokenizer(vocab=_vocabulary())


def spread(model: Any) -> None:
    """Make biases and norms matter: as initialised, they are all 0 and 1; let texts differ."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") and weight.ndim == 1:
                weight.normal_(std=0.05)
            elif "norm" in name.lower() and weight.ndim == 1:
                weight.normal_(mean=1.0, std=0.1)
            elif weight.ndim == _MATRIX and name.startswith("text_model"):
                # As initialised, all texts are embedded alike.
                wide = "token_embedding" in name or "word_embeddings" in name
                weight.normal_(std=1.0 if wide else weight.shape[1] ** -0.5)


def _vocabulary() -> dict[str, int]:
    plain = [*_SPECIAL, *map(chr, _ASCII)]
    chinese = range(_FIRST_CHARACTER, _FIRST_CHARACTER + VOCABULARY - len(plain))
    return {token: number for number, token in enumerate([*plain, *map(chr, chinese)])}
