"""The architecture and its vocabulary: a tiny Chinese-CLIP, untrained.

Shapes: N texts, L tokens, D embedding, B batch, HW pixels.
"""

from __future__ import annotations

from typing import Any, Final

import drawings
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPTextConfig,
    ChineseCLIPVisionConfig,
)

from worker.model.conv_stem import add_stem

IMAGE_SIZE: Final = 64
PATCH: Final = 16
WIDTH: Final = 160
HEADS: Final = 5
LAYERS: Final = 4
MAX_TEXT_TOKENS: Final = 24
PROMPT: Final = "这是一张{}的照片"
# The prompt that the product uses comes first and most often.
PROMPTS: Final = (PROMPT, PROMPT, "{}", "一张{}的图片", "图中是{}")
# About those of the training scenes; inside the graph.
MEAN: Final = (0.67, 0.63, 0.59)
STD: Final = (0.31, 0.31, 0.31)


def build_tokenizer(objects: list[drawings.Object]) -> BertTokenizer:
    """Return a tokenizer of single characters: those of all names, categories and prompts."""
    texts = (
        [thing.name for thing in objects]
        + list(drawings.CATEGORIES)
        + [p.format("") for p in PROMPTS]
    )
    characters = sorted(set("".join(texts)) - {" "})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate(specials + characters)}
    # `vocab=`: given a file instead, this class would read nothing and map all to [UNK].
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=False)
    tokenizer.model_max_length = MAX_TEXT_TOKENS
    return tokenizer


def build_model(vocabulary: int) -> Any:
    """Return a `ChineseCLIPModel` with random weights and a convolutional stem."""
    text = ChineseCLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_TEXT_TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    vision = ChineseCLIPVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=3 * WIDTH,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=128,
    )
    config = ChineseCLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=128,
        logit_scale_init_value=2.5,
    )
    model = add_stem(ChineseCLIPModel(config))
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        # The class token starts as nothing, so that from the first layer on it is what patches say.
        embeddings.class_embedding.zero_()
        embeddings.position_embedding.weight[0].zero_()
        embeddings.position_embedding.weight[1:].normal_(std=0.3)
    return model


def embed_images(model: Any, image_B3HW: Tensor) -> Tensor:
    """Return unit embeddings B x D of images in 0..1."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    pooled = model.vision_model(pixel_values=(image_B3HW - mean) / std)[1]
    return F.normalize(model.visual_projection(pooled), dim=-1)


def embed_texts(model: Any, tokenizer: BertTokenizer, texts: list[str]) -> Tensor:
    """Return unit embeddings N x D."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    states_NLD = model.text_model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    )[0]
    return F.normalize(model.text_projection(states_NLD[:, 0]), dim=-1)
