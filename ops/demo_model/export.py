"""Trained weights -> the artifact that ships: python ops/demo_model/export.py."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Final

import drawings
import torch
from model import IMAGE_SIZE, MAX_TEXT_TOKENS, MEAN, PROMPT, STD, build_model
from train import MAX_LOGIT_SCALE, WEIGHTS
from transformers import BertTokenizer

from worker.artifact.manifest import Preprocessing, Source, default_artifact
from worker.export.export import export_model
from worker.export.recipe import Recipe
from worker.model.hub import Loaded

CARD: Final = "README.md"
RECIPE: Final = Recipe(
    name="wanwu-demo",
    source=Source(id="ops/demo_model", revision="1"),
    preprocessing=Preprocessing(height=IMAGE_SIZE, width=IMAGE_SIZE, mean=MEAN, std=STD),
    max_text_tokens=MAX_TEXT_TOKENS,
    template=PROMPT,
    labels=tuple(thing.name for thing in drawings.read_objects()),
    notice=(
        "this is the bundled demonstration model, trained on drawings: it cannot be relied on for "
        'photographs. For those, use Chinese-CLIP: see "Your own model" in the README.'
    ),
)


def export(trained: Path, out: Path) -> None:
    """Write the artifact, keeping the model card that stands beside it."""
    card = (out / CARD).read_text(encoding="utf-8") if (out / CARD).exists() else None
    tokenizer = BertTokenizer.from_pretrained(trained)
    model = build_model(len(tokenizer))
    # By hand: transformers does not know the stem.
    model.load_state_dict(torch.load(trained / WEIGHTS, weights_only=True))
    with torch.no_grad():
        model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    # Rounded once, so that the weights ship in 16 bits and every engine computes the same.
    model = model.half().float()
    loaded = Loaded(model, None, tokenizer, RECIPE.source)
    manifest = export_model(loaded, RECIPE, out)
    if card is not None:
        (out / CARD).write_text(card, encoding="utf-8")
    size_mb = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    print(f"{out}: {size_mb:.1f} MB, deviation from the model {manifest.parity}")
    print(f"logit scale {manifest.logit_scale:.1f}, at most {math.exp(MAX_LOGIT_SCALE):.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, default=Path("trained"))
    parser.add_argument("--out", type=Path, default=default_artifact())
    options = parser.parse_args()
    export(options.trained, options.out)
