"""A small Chinese-CLIP with random weights that tells any number of labels apart, as an artifact.

    python ops/bench/small_model.py DIR

Its embeddings have B/16's 512 dimensions, so ranking and records cost what they cost with it; all
else is tiny. It knows the characters of many_labels.py. It stands for the bundled model, which
knows some 1,500 single words, where labels are many.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import torch
from full_size import DIM, spread
from hub_models import TINY_TEXT, TINY_VISION
from many_labels import CHARACTERS
from transformers import (
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
)

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.settings import Settings
from worker.export.on_first_use import export_to

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def small_artifact(out: Path) -> Artifact:
    """Make the model and export it to `out`, in fp32 for the CPU."""
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(model=str(_saved(Path(place))), precision="fp32", device="cpu")
        echo = partial(print, file=sys.stderr)
        return open_artifact(export_to(out, settings, None, echo))


def _saved(directory: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = BertTokenizer(vocab={one: n for n, one in enumerate((*_SPECIAL, *CHARACTERS))})
    side = TINY_VISION["image_size"]
    model = ChineseCLIPModel(
        ChineseCLIPConfig(
            text_config=TINY_TEXT | {"vocab_size": len(tokenizer)},
            vision_config=TINY_VISION | {"projection_dim": DIM},
            projection_dim=DIM,
        )
    )
    spread(model)
    size = {"height": side, "width": side}
    processor = ChineseCLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    for part in (model, processor, tokenizer):
        part.save_pretrained(directory)
    return directory


if __name__ == "__main__":
    small_artifact(Path(sys.argv[1]))
