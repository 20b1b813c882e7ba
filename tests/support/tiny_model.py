"""A real artifact in miniature: it knows red, green and blue, and their Chinese names."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor, nn
from torch.nn.functional import normalize

SIDE = 8
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "红": 2, "绿": 3, "蓝": 4}


class MeanColour(nn.Module):
    """uint8 NCHW -> N3: an image is as red, green and blue as its mean colour."""

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        return normalize(pixels_NCHW.float().mean((2, 3)), dim=-1)


class NamedColour(nn.Module):
    """Token ids NL and mask NL -> N3: a text is the sum of the colours that it names."""

    colours: Tensor

    def __init__(self) -> None:
        super().__init__()
        grey = torch.full((1, 3), 0.01)
        self.register_buffer("colours", torch.cat([torch.full((1, 3), 9.0), grey, torch.eye(3)]))

    def forward(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        return normalize((self.colours[ids_NL] * mask_NL[..., None]).sum(1), dim=-1)


def build(directory: Path, *, labels: str | None = "红\n绿\n蓝\n", **changes: Any) -> Path:
    """Write the artifact to `directory` and return it; `changes` go into the manifest."""
    (directory / "tokenizer").mkdir(parents=True)
    ids_NL = torch.tensor([[2, 1, 0], [3, 0, 0]])
    save_traced(
        MeanColour(), (torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8),), directory / "image.pt"
    )
    save_traced(NamedColour(), (ids_NL, (ids_NL > 0).long()), directory / "text.pt")
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    if labels is not None:
        (directory / "labels.txt").write_text(labels, encoding="utf-8")
    write_manifest(directory, **({"labels": "labels.txt"} if labels is not None else {}), **changes)
    return directory


def write_manifest(directory: Path, **changes: Any) -> None:
    """Write a manifest for the files that lie there."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".md"]
    manifest = {
        "format": 1,
        "name": "tiny",
        "kind": "zero-shot",
        "source": {"id": "tests", "revision": "1"},
        "files": {
            str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.name != "manifest.json"
        },
        "preprocessing": {"height": SIDE, "width": SIDE},
        "embedding_dim": 3,
        "logit_scale": 20.0,
        "max_text_tokens": 6,
        "template": "这是{}色",
    }
    (directory / "manifest.json").write_text(json.dumps(manifest | changes), encoding="utf-8")


def save_traced(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Write a module as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module.eval(), example).save(str(path))  # type: ignore[no-untyped-call]
