"""Words of the concepts -> a tokenizer that knows whole texts alone, and a text tower of a table.

Shapes: N texts, L tokens (one), D embedding dimensions.
"""

from __future__ import annotations

from typing import Final

import torch
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel
from torch import Tensor, nn

PAD: Final = "[PAD]"
UNKNOWN: Final = "[UNK]"
TEMPLATE: Final = "这是一张{}的照片"
_COUNTERS: Final = "只个张头条匹辆架把朵棵座艘件台"


def tokenizer(entries: dict[str, int]) -> Tokenizer:
    """Return a tokenizer whose token n + 2 is the word n, in any case, with or without article."""
    vocabulary = {PAD: 0, UNKNOWN: 1} | {word: n + 2 for n, word in enumerate(entries)}
    made = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    before, after = TEMPLATE.split("{}")
    made.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"^\s*(a|an|the)\s+"), ""),
            normalizers.Replace(Regex(r"[\s\p{P}]+"), ""),
            normalizers.Replace(Regex(f"^{before}(?=.+{after}$)"), ""),
            normalizers.Replace(Regex(f"(?<=.){after}$"), ""),
            normalizers.Replace(Regex(f"^一[{_COUNTERS}](?=.)"), ""),
        ]
    )
    made.enable_truncation(max_length=1)
    made.enable_padding(length=1, pad_id=0, pad_token=PAD)
    return made


class LexiconTower(nn.Module):
    """Token ids NL -> the unit vector of each word's concept ND, or of the unknown."""

    concept: Tensor
    every: Tensor

    def __init__(self, entries: dict[str, int], concepts: int) -> None:
        """Take D = concepts + 2 dimensions, of which the last but one is the unknown's."""
        super().__init__()
        numbers = [concepts, concepts, *entries.values()]
        self.register_buffer("concept", torch.tensor(numbers))
        self.register_buffer("every", torch.arange(concepts + 2))

    def forward(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        """Look the first token up."""
        return (self.concept[ids_NL[:, :1]] == self.every).to(torch.float32)
