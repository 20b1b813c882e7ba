"""Records as tests need them."""

from __future__ import annotations

import base64

import numpy as np

from worker.contract.messages import Failure, Record, Stamp, Tag, Timing

MODEL = "demo@0123456789ab"
LABELS = "0123456789abcdef"


def record(path: str = "/图/猫.jpg", **fields: object) -> Record:
    values = {
        "path": path,
        "status": "ok",
        "tags": (Tag("猫", 0.93000049), Tag("狗", 1 / 30)),
        "error": None,
        "timing": Timing(queue_ms=1.23456, infer_ms=20.0),
        "batch_size": 4,
        "worker": "w@h",
        "device": "cpu",
        "model": MODEL,
    }
    return Record(**(values | fields))  # type: ignore[arg-type]


def failed(path: str = "/图/坏.jpg", **fields: object) -> Record:
    error = Failure("not_an_image", "decode", 'it is "no" image,\nof any kind')
    return record(path, status="failed", tags=(), error=error, batch_size=None, **fields)


def several() -> list[Record]:
    """Records in which each field takes each of its forms."""
    return [
        record(labels=LABELS, file=Stamp(123, 1_700_000_000.123456)),
        record('/a,b "c"\n|d.jpg', tags=(Tag("a|b\\", 0.5, "<c|d", ("动物",)), Tag("=1+1", 0.25))),
        record("/none.jpg", tags=()),
        failed(file=Stamp(5, 2.5)),
    ]


def embedding(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f2").tobytes()).decode()
