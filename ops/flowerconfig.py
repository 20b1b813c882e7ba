"""Flower for wanwu-tagger: `celery flower --conf=ops/flowerconfig.py` (ops/flower does that).

What it shows of chunks and workers, and its Throughput page, are in `producer.monitoring.flower`.
"""

from producer.monitoring.flower.config import (
    max_tasks,
    natural_time,
    purge_offline_workers,
    tasks_columns,
)

__all__ = ["max_tasks", "natural_time", "purge_offline_workers", "tasks_columns"]
