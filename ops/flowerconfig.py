"""Flower for wanwu-tagger: what each chunk was and where its time went, and how each worker does.

    celery flower --conf=ops/flowerconfig.py        (ops/flower does that)

Workers tell the fields with the event that every finished task sends; here Flower learns their
names. The page of a worker gets a panel, flower_worker.html, of what `celery inspect stats` tells
of it. It needs neither torch nor this project's code.
"""

from pathlib import Path

from celery.events.state import Task
from flower.urls import settings
from flower.views.tasks import TASK_COLUMNS
from tornado.template import DictLoader

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

# Flower's own pages, with our panel above the tabs of a worker. A Flower whose page has no such
# place shows it as it is.
templates = Path(settings["template_path"])
pages = {
    str(page.relative_to(templates)): page.read_text(encoding="utf-8")
    for page in templates.rglob("*.html")
}
panel = Path(__file__).with_name("flower_worker.html").read_text(encoding="utf-8")
pages["worker.html"] = pages["worker.html"].replace("</header>", f"</header>\n{panel}", 1)
settings["template_loader"] = DictLoader(pages)

# What Flower keeps: a million images are 16,000 chunks or more.
max_tasks = 20_000
purge_offline_workers = 3600
natural_time = False
tasks_columns = ",".join(("uuid", "state", *(name for name in FIELDS if name != "model"), "worker"))
