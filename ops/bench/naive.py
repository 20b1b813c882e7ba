"""Celery as a first draft has it: a task an image, a result subscription each, prefork, no batches.

    celery --app naive worker --pool prefork

A task only opens and decodes its image: no model, so that what is left is the queue's.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from PIL import Image

URL = os.environ.get("WANWU_BROKER_URL", "redis://localhost:6379/0")
app = Celery("naive", broker=URL, backend=URL)


@app.task(name="naive.tag")
def tag(path: str, labels: list[str]) -> list[dict[str, Any]]:
    """Return the labels with scores that stand for a model's."""
    with Image.open(path) as image:
        image.convert("RGB")
    return [{"label": label, "score": 1 / len(labels)} for label in labels]
