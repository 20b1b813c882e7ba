"""Hash of a label pack -> what this worker's model makes of the labels, before images are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import redis
from celery.worker.control import inspect_command

from worker.contract.label_check import CHECK, LabelCheck
from worker.errors import TaggerError


def answers_label_checks(check: Callable[[str], LabelCheck]) -> None:
    """Let this worker answer, by Celery's remote control, what its model makes of labels.

    It is the main thread that answers, within some hundred milliseconds for thousands of labels.
    """

    def answer(_state: object, labels: Any) -> dict[str, Any]:
        try:
            return {"check": msgspec.to_builtins(check(str(labels)))}
        except (TaggerError, redis.RedisError) as e:
            return {"error": str(e)}

    inspect_command(name=CHECK)(answer)
