"""Celery's side of a worker: the task, its acknowledgement, start, stop and reconnection."""
