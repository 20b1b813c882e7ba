"""What Flower reads with `--conf`: our pages, and settings of its own."""

from producer.monitoring.flower.pages import FIELDS, install

install()

# What Flower keeps: a million images are 16,000 chunks or more.
max_tasks = 20_000
purge_offline_workers = 3600
natural_time = False
tasks_columns = ",".join(("uuid", "state", *(name for name in FIELDS if name != "model"), "worker"))
