"""Labels in Redis -> what a worker's model makes of them. Celery's own remote control asks it."""

from __future__ import annotations

from typing import Final

import msgspec
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from worker.contract.label_check import CHECK, LabelCheck, Sentence
from worker.contract.labels import LabelsError

# A text tower may have to be loaded first.
_ANSWER_S: Final = 5.0
# Labels that are refused are of no use to anybody.
CHECKED_TTL_S: Final = 600


class UnfitLabelsError(LabelsError):
    """A model cannot use labels as they are; `english` says why for data."""

    def __init__(self, refusals: list[Sentence]) -> None:
        super().__init__("; ".join(map(str, refusals)))
        self.english = "; ".join(sentence.english for sentence in refusals)


def label_check(app: Celery, labels: str, worker: str) -> LabelCheck:
    """Return what a worker says of the labels with this hash; nothing if it does not answer.

    What is not found out here, workers find out when they tag.
    """
    inspect = app.control.inspect([worker], timeout=_ANSWER_S, limit=1)
    try:
        answers = inspect._request(CHECK, labels=labels) or {}  # noqa: SLF001 - Celery's way to own commands
        return msgspec.convert(answers[worker]["check"], LabelCheck)
    except (OperationalError, redis.RedisError, OSError, LookupError, ValueError, TypeError):
        # Away, busy, or of an older version.
        return LabelCheck()
