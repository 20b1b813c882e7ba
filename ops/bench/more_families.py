"""Models of families that few people export: their weights random, their tokenizers real ones.

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
_FULL_TIMM: Final = {"timm": "efficientnet_b0", "timm_vit": "vit_base_patch16_224"}
_FULL_SIDE: Final = 224
# Of SigLIP 2 base and MetaCLIP 2 worldwide B/32. Tokenizers stay small: other rows go unused.
_GEMMA_WORDS: Final = 256_000
_XLM_V_WORDS: Final = 901_629


def save_more(directory: Path, family: str, *, full: bool = False) -> Path:
    """Write a model of the family to `directory`: tiny, or of the size that people use."""
    torch.manual_seed(0)
    if family in _TIMM:
        return _timm(directory, (_FULL_TIMM if full else _TIMM)[family])
    makers = {
        "siglip2": _siglip2,
        "metaclip_2": _metaclip_2,
        "altclip": _altclip,
        "vit_several": _vit_several,
    }
    model, processor = makers[family](full=full)
    spread(model)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def _siglip2(*, full: bool) -> tuple[Any, Any]:
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
    if full:
        config = SiglipConfig(
            text_config={"vocab_size": _GEMMA_WORDS},
            vision_config={"image_size": _FULL_SIDE, "patch_size": 16},
        )
    side = _FULL_SIDE if full else _SIDE
    pictures = SiglipImageProcessor(size={"height": side, "width": side})
    return SiglipModel(config), SiglipProcessor(image_processor=pictures, tokenizer=tokenizer)


def _metaclip_2(*, full: bool) -> tuple[Any, Any]:
    length = 77 if full else 24
    tokenizer = _xlm_roberta(length)
    text = {
        "vocab_size": _XLM_V_WORDS if full else len(tokenizer),
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = MetaClip2Config(
        text_config=text if full else TINY_TEXT | text,
        vision_config={"patch_size": 32} if full else TINY_VISION,
        projection_dim=512 if full else 16,
    )
    pictures = _clip_pictures(_FULL_SIDE if full else _SIDE)
    return MetaClip2Model(config), CLIPProcessor(image_processor=pictures, tokenizer=tokenizer)


def _altclip(*, full: bool) -> tuple[Any, Any]:
    tokenizer = _xlm_roberta(100)
    pad = {"pad_token_id": tokenizer.pad_token_id}
    if full:
        # ViT-L/14 and XLM-R large: transformers' own default, but for the pictures' side.
        vision = {"patch_size": 14, "hidden_size": 1024, "num_hidden_layers": 24}
        vision |= {"num_attention_heads": 16, "intermediate_size": 4096, "projection_dim": 768}
        config = AltCLIPConfig(text_config=pad, vision_config=vision, projection_dim=768)
    else:
        text = {"vocab_size": len(tokenizer), "max_position_embeddings": 102, "project_dim": 16}
        config = AltCLIPConfig(
            text_config=TINY_TEXT | text | pad,
            vision_config=TINY_VISION | {"projection_dim": 16},
            projection_dim=16,
        )
    pictures = _clip_pictures(_FULL_SIDE if full else _SIDE)
    return AltCLIPModel(config), AltCLIPProcessor(image_processor=pictures, tokenizer=tokenizer)


def _clip_pictures(side: int) -> CLIPImageProcessor:
    crop = {"height": side, "width": side}
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop)


def _xlm_roberta(length: int) -> XLMRobertaTokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, "▁", *sorted(set(CHARACTERS) - {" "}), "<mask>"]
    scores = [(piece, 0.0 if piece in special else -2.0) for piece in pieces]
    return XLMRobertaTokenizer(vocab=scores, model_max_length=length)


def _vit_several(*, full: bool) -> tuple[Any, Any]:
    """A classifier whose classes do not exclude each other, numbered from 1."""
    classes = dict(enumerate(LABELS, start=1))
    size = {} if full else TINY_VISION
    config = ViTConfig(**size, id2label=classes, problem_type="multi_label_classification")
    side = _FULL_SIDE if full else _SIDE
    processor = ViTImageProcessor(size={"height": side, "width": side})
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
