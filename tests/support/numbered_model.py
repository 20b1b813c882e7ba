"""The artifact in miniature, for many labels: it knows colours with numbers, `红1`, `蓝0042`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import tiny_model
import torch
from tiny_model import SIDE, VOCABULARY, write_manifest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

LENGTH: Final = 6
_WORDS: Final = VOCABULARY | {str(digit): len(VOCABULARY) + digit for digit in range(10)}
DIM: Final = LENGTH * len(_WORDS)


class Colour(nn.Module):
    """uint8 NCHW -> ND: the colour, where a text names it first."""

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        rows_NPV = torch.zeros(pixels_NCHW.shape[0], LENGTH, len(_WORDS))
        rows_NPV[:, 0, 2:5] = pixels_NCHW.float().mean((2, 3))
        return normalize(rows_NPV.flatten(1), dim=-1)


class Numbered(nn.Module):
    """Token ids NL and mask NL -> ND: which token stands where."""

    def forward(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        rows_NLV = one_hot(ids_NL, len(_WORDS)).float() * mask_NL[..., None]
        rows_NPV = nn.functional.pad(rows_NLV, (0, 0, 0, LENGTH - rows_NLV.shape[1]))
        return normalize(rows_NPV.flatten(1), dim=-1)


def build(directory: Path) -> Path:
    """Write the artifact to `directory` and return it."""
    (directory / "tokenizer").mkdir(parents=True)
    blank_NCHW = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    tiny_model.save_traced(Colour(), (blank_NCHW,), directory / "image.pt")
    ids_NL = torch.zeros(2, LENGTH, dtype=torch.int64)
    tiny_model.save_traced(Numbered(), (ids_NL, ids_NL), directory / "text.pt")
    tokenizer = Tokenizer(WordLevel(_WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    write_manifest(directory, embedding_dim=DIM, max_text_tokens=LENGTH, template="{}")
    return directory
