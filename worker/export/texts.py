"""A model's tokenizer and text tower -> their files in an artifact, compared with the model's own.

Shapes: N texts, L tokens, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from worker.artifact.manifest import TEXT_PROGRAM, TEXT_TOWER, TOKENIZER
from worker.contract.i18n import gettext_noop as N_
from worker.errors import ExportError
from worker.export.programs import export_program
from worker.export.recipe import Recipe
from worker.export.reference import text_rows, tokens_of
from worker.export.tracing import BATCHES, trace
from worker.model.hub import Loaded
from worker.model.towers import TextTower

# Different words, of which a tokenizer with a vocabulary makes different tokens.
_WORDS: Final = ("猫", "a dog", "红色的苹果", "Zürich")
# What people write: another case, other widths, signs, several languages, too much of it.
_ODD_TEXTS: Final = (
    *("Cats & DOGS!", "ＡＢＣ　１２３", "🎉 生日 party", "naïve café", "  two  blanks ", "?"),
    "一只猫坐在红色的椅子上 beside a dog on the street, " * 12,
)


def export_texts(
    loaded: Loaded, recipe: Recipe, directory: Path, engines: tuple[str, ...]
) -> float:
    """Write the text tower for each engine, and the tokenizer; return the largest deviation.

    Raises:
        ExportError: they do not agree with the model fed by its own tokenizer.
    """
    model, tokenizer, length = loaded.model, loaded.tokenizer, recipe.max_text_tokens
    labels = recipe.labels or _WORDS
    varied = chain(labels[: len(_WORDS)], _ODD_TEXTS)
    texts = [recipe.template.format(text) for text in (*varied, *labels)]
    own = tokens_of(model, tokenizer, texts, length)
    saved = _save_tokenizer(loaded, length, directory / TOKENIZER)
    _check_vocabulary(saved, labels)
    encoded = saved.encode_batch(texts)
    ids_NL = torch.tensor([one.ids for one in encoded])
    mask_NL = torch.tensor([one.attention_mask for one in encoded])
    _check_tokens(ids_NL, mask_NL, own)
    rows = max(BATCHES)
    some = {name: values[:rows] for name, values in own.items()}
    tower = TextTower(model, is_masked="attention_mask" in own).eval()
    inputs = ids_NL[:rows], mask_NL[:rows]
    wanted = text_rows(model, some)
    makers = {"torchscript": (trace, TEXT_TOWER), "exported": (export_program, TEXT_PROGRAM)}
    found = [
        makers[name][0](tower, inputs, wanted, directory / makers[name][1]) for name in engines
    ]
    return max(one.max_abs for one in found)


def _save_tokenizer(loaded: Loaded, length: int, file: Path) -> Tokenizer:
    """Write the tokenizer's fast form, set to rows of so many tokens, and return it as written."""
    own: Any = loaded.tokenizer
    fast = loaded.fast_tokenizer or own.backend_tokenizer
    fast.enable_truncation(max_length=length, direction=own.truncation_side)
    fast.enable_padding(
        length=length,
        direction=own.padding_side,
        pad_id=own.pad_token_id or 0,
        pad_token=own.pad_token or "[PAD]",
    )
    file.parent.mkdir()
    fast.save(str(file))
    return Tokenizer.from_file(str(file))


def _check_vocabulary(tokenizer: Tokenizer, labels: Sequence[str]) -> None:
    """Refuse a tokenizer that lost its vocabulary."""
    rows = {tuple(encoded.ids) for encoded in tokenizer.encode_batch(list(labels))}
    if len(rows) < len(labels):
        raise ExportError(
            N_("{wanted} labels give only {rows} different rows of tokens"),
            wanted=len(labels),
            rows=len(rows),
        )


def _check_tokens(ids_NL: Tensor, mask_NL: Tensor, own: Any) -> None:
    """Refuse a fast form that splits a text differently from the tokenizer itself."""
    theirs_NL = own["input_ids"]
    read_NL = own.get("attention_mask", torch.ones_like(theirs_NL)).bool()
    same_length = "attention_mask" not in own
    ours_NL = torch.ones_like(mask_NL).bool() if same_length else mask_NL.bool()
    ours = [ids[mask].tolist() for ids, mask in zip(ids_NL, ours_NL, strict=True)]
    theirs = [ids[mask].tolist() for ids, mask in zip(theirs_NL, read_NL, strict=True)]
    if ours != theirs:
        raise ExportError(
            N_("the tokenizer's fast form splits texts differently from the tokenizer itself")
        )
