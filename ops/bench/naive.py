"""Celery as a first draft has it: a task an image, a result subscription each, prefork, no batches.

    celery --app naive worker --pool prefork

Each child holds transformers' pipeline for the model that `NAIVE_MODEL` names, on `NAIVE_DEVICE`.
Without one a task only opens and decodes its image, so that what is left is the queue's.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from celery import Celery
from PIL import Image

URL = os.environ.get("WANWU_BROKER_URL", "redis://localhost:6379/0")
MODEL = os.environ.get("NAIVE_MODEL")
DEVICE = os.environ.get("NAIVE_DEVICE", "cpu")
PROMPT = "这是一张{}的照片"
app = Celery("naive", broker=URL, backend=URL)


@app.task(name="naive.tag")
def tag(path: str, labels: list[str]) -> list[dict[str, Any]]:
    """Return the labels with their scores."""
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    if MODEL:
        classify, options = _pipeline(MODEL), {"hypothesis_template": PROMPT}
        found: list[dict[str, Any]] = classify(pixels, candidate_labels=labels, **options)
        return found
    return [{"label": label, "score": 1 / len(labels)} for label in labels]


@cache
def _pipeline(model: str) -> Any:
    """Return the pipeline of this child, loaded when its first task comes."""
    from transformers import pipeline  # noqa: PLC0415 - the parent needs none

    return pipeline("zero-shot-image-classification", model=model, device=DEVICE)
