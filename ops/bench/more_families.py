"""Tiny models of families that few people export: their weights random, their tokenizers real ones.

Tokenizers are of the classes that transformers has for the family, over a small vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import timm
import torch
from full_size import spread
from hub_models import CHARACTERS, LABELS, TINY_TEXT, TINY_VISION, edit
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AltCLIPProcessor,
    CLIPImageProcessor,
    CLIPProcessor,
    MetaClip2Config,
    MetaClip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    XLMRobertaTokenizer,
)

MORE: Final = ("siglip2", "metaclip_2", "altclip", "vit_several", "timm", "timm_vit")
_SIDE: Final = 48
_TIMM: Final = {"timm": "test_efficientnet", "timm_vit": "test_vit"}


def save_more(directory: Path, family: str) -> Path:
    """Write a tiny model of the family to `directory`, as the hub would hand it out."""
    torch.manual_seed(0)
    if family in _TIMM:
        return _timm(directory, _TIMM[family])
    makers = {
        "siglip2": _siglip2,
        "metaclip_2": _metaclip_2,
        "altclip": _altclip,
        "vit_several": _vit_several,
    }
    model, processor = makers[family]()
    spread(model)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def _siglip2() -> tuple[Any, Any]:
    """SigLIP 2 of fixed resolution: SigLIP's model, Gemma's tokenizer in small letters."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = ["▁", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(set(CHARACTERS) - {" "})]
    vocabulary = {piece: n for n, piece in enumerate([*special, *pieces])}
    tokenizer = Siglip2Tokenizer(
        vocab=vocabulary,
        merges=[],
        padding_side="right",
        model_input_names=["input_ids"],
        model_max_length=64,
    )
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 64, "projection_size": 32}
    config = SiglipConfig(text_config=TINY_TEXT | text, vision_config=TINY_VISION)
    pictures = SiglipImageProcessor(size={"height": _SIDE, "width": _SIDE})
    return SiglipModel(config), SiglipProcessor(image_processor=pictures, tokenizer=tokenizer)


def _metaclip_2() -> tuple[Any, Any]:
    tokenizer = _xlm_roberta(24)
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = MetaClip2Config(
        text_config=TINY_TEXT | text, vision_config=TINY_VISION, projection_dim=16
    )
    pictures = _clip_pictures()
    return MetaClip2Model(config), CLIPProcessor(image_processor=pictures, tokenizer=tokenizer)


def _altclip() -> tuple[Any, Any]:
    tokenizer = _xlm_roberta(100)
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 102,
        "project_dim": 16,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AltCLIPConfig(
        text_config=TINY_TEXT | text,
        vision_config=TINY_VISION | {"projection_dim": 16},
        projection_dim=16,
    )
    pictures = _clip_pictures()
    return AltCLIPModel(config), AltCLIPProcessor(image_processor=pictures, tokenizer=tokenizer)


def _clip_pictures() -> CLIPImageProcessor:
    crop = {"height": _SIDE, "width": _SIDE}
    return CLIPImageProcessor(size={"shortest_edge": _SIDE}, crop_size=crop)


def _xlm_roberta(length: int) -> XLMRobertaTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, "▁", *sorted(set(CHARACTERS) - {" "}), "<mask>"]
    scores = [(piece, 0.0 if piece in special else -2.0) for piece in pieces]
    return XLMRobertaTokenizer(vocab=scores, model_max_length=length)


def _vit_several() -> tuple[Any, Any]:
    """A classifier whose classes do not exclude each other, numbered from 1."""
    classes = dict(enumerate(LABELS, start=1))
    config = ViTConfig(**TINY_VISION, id2label=classes, problem_type="multi_label_classification")
    processor = ViTImageProcessor(size={"height": _SIDE, "width": _SIDE})
    return ViTForImageClassification(config), processor


def _timm(directory: Path, architecture: str) -> Path:
    model = timm.create_model(architecture, pretrained=False, num_classes=len(LABELS)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
    timm.models.save_for_hf(
        model, str(directory), model_config={"label_names": list(LABELS)}, safe_serialization=True
    )
    # timm's own repositories have none, and transformers cannot read it.
    edit(directory / "config.json", model_args=None)
    return directory
