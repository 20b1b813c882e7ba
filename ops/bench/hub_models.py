"""Directories such as the hub hands out: models of several families, their weights random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from full_size import parts, spread
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

LABELS = ("猫", "狗", "红苹果", "公共汽车", "山", "手机")
FAMILIES = ("chinese_clip", "clip", "siglip", "vit")
CHARACTERS = sorted(set("".join(LABELS) + "这是一张的照片小大" + "Thisaphotofg.cdrbumnky "))
TINY_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TINY_VISION = TINY_TEXT | {"image_size": 48, "patch_size": 16}


def save(directory: Path, family: str, *, full: bool = False) -> Path:
    """Write a model of the family to `directory`: tiny, or of the size that people use."""
    torch.manual_seed(0)
    makers = {"chinese_clip": _chinese_clip, "clip": _clip, "siglip": _siglip, "vit": _vit}
    model, processor, tokenizer = makers[family](full=full)
    spread(model)
    for part in (model, processor, tokenizer):
        if part is not None:
            part.save_pretrained(directory)
    return directory


def _chinese_clip(*, full: bool) -> tuple[Any, Any, Any]:
    if full:
        return parts()
    tokenizer = BertTokenizer(
        vocab={
            token: n
            for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS])
        }
    )
    config = ChineseCLIPConfig(
        text_config=TINY_TEXT | {"vocab_size": len(tokenizer), "max_position_embeddings": 64},
        vision_config=TINY_VISION | {"projection_dim": 16},
        projection_dim=16,
    )
    size = {"height": 48, "width": 48}
    processor = ChineseCLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    return ChineseCLIPModel(config), processor, tokenizer


def _clip(*, full: bool) -> tuple[Any, Any, Any]:
    tokenizer = _characters(start="<|startoftext|>", end="<|endoftext|>", length=77 if full else 24)
    vocabulary = {
        "vocab_size": 49408 if full else len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if full:
        config = CLIPConfig(
            text_config=vocabulary, vision_config={"patch_size": 32}, projection_dim=512
        )
    else:
        config = CLIPConfig(
            text_config=TINY_TEXT | vocabulary | {"max_position_embeddings": 24},
            vision_config=TINY_VISION,
            projection_dim=16,
        )
    side = 224 if full else 48
    crop = {"height": side, "width": side}
    return (
        CLIPModel(config),
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop),
        tokenizer,
    )


def _siglip(*, full: bool) -> tuple[Any, Any, Any]:
    tokenizer = _characters(start=None, end="</s>", length=64)
    if full:
        config = SiglipConfig(text_config={}, vision_config={"image_size": 224, "patch_size": 16})
    else:
        text = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32}
        config = SiglipConfig(text_config=TINY_TEXT | text, vision_config=TINY_VISION)
    side = 224 if full else 48
    return (
        SiglipModel(config),
        SiglipImageProcessor(size={"height": side, "width": side}),
        tokenizer,
    )


def _vit(*, full: bool) -> tuple[Any, Any, Any]:
    classes = dict(
        enumerate(["猫", "狗", "鹤", "鹤", *(f"物{n}" for n in range(996 if full else 2))])
    )
    config = ViTConfig(**({} if full else TINY_VISION), id2label=classes)
    side = 224 if full else 48
    processor = ViTImageProcessor(size={"height": side, "width": side})
    return ViTForImageClassification(config), processor, None


def _characters(start: str | None, end: str, length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of characters that frames a text as CLIP or SigLIP do, saved as JSON."""
    special = [token for token in (start, end, "<unk>") if token]
    # CLIP finds the end of a text by the greatest id.
    vocabulary = {
        token: n for n, token in enumerate([*CHARACTERS, "<unk>", *([start] if start else []), end])
    }
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast.decoder = decoders.Fuse()
    ids = [(token, vocabulary[token]) for token in special]
    single = f"{start} $A {end}" if start else f"$A {end}"
    fast.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        unk_token="<unk>",  # noqa: S106
        model_max_length=length,
        padding_side="right",
    )


def edit(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(fields | changes), encoding="utf-8")
