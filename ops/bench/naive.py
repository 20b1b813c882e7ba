"""Celery as a first draft has it: a task an image, a result subscription each, prefork, no batches.

    celery --app naive worker --pool prefork

The variable NAIVE_MODEL names a Hugging Face directory or id; without it a task only opens and
decodes its image.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from PIL import Image

URL = os.environ.get("WANWU_BROKER_URL", "redis://localhost:6379/0")
app = Celery("naive", broker=URL, backend=URL)
_held: dict[str, Any] = {}


@worker_process_init.connect
def load(**_: object) -> None:
    """Load the model, once for each child."""
    if model := os.environ.get("NAIVE_MODEL"):
        from transformers import pipeline  # noqa: PLC0415 - not without a model: it costs seconds

        _held["classify"] = pipeline("zero-shot-image-classification", model=model)


@app.task(name="naive.tag")
def tag(path: str, labels: list[str]) -> list[dict[str, Any]]:
    """Return the labels with their scores."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if classify := _held.get("classify"):
        found: list[dict[str, Any]] = classify(
            image, candidate_labels=labels, hypothesis_template="这是一张{}的照片"
        )
        return found
    return [{"label": label, "score": 1 / len(labels)} for label in labels]
