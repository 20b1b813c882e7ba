"""Flower for wanwu-tagger: the Tasks page shows what each chunk was and where its time went.

    celery flower --conf=ops/flowerconfig.py        (ops/flower does that)

Workers tell the fields with the event that every finished task sends; here Flower learns their
names. It needs neither torch nor this project's code.
"""

from celery.events.state import Task
from flower.views.tasks import TASK_COLUMNS

# Means over the images of a chunk, in milliseconds where the name says so.
FIELDS = {
    "images": "Images",
    "failed_images": "Failed",
    "images_per_s": "img/s",
    "batch": "Batch",
    "queue_ms": "Queue ms",
    "read_ms": "Read ms",
    "decode_ms": "Decode ms",
    "batch_wait_ms": "Wait ms",
    "infer_ms": "Infer ms",
    "total_ms": "Total ms",
    "device": "Device",
    "model": "Model",
}

for name in FIELDS:
    if name not in Task._fields:
        # A task that is not finished has none of them.
        setattr(Task, name, None)
        Task._fields += (name,)
        Task._info_fields += (name,)  # noqa: SLF001 - what the page of a task shows
TASK_COLUMNS.update(FIELDS)

# What Flower keeps: a million images are 16,000 chunks or more.
max_tasks = 20_000
purge_offline_workers = 3600
natural_time = False
tasks_columns = ",".join(("uuid", "state", *(name for name in FIELDS if name != "model"), "worker"))
