"""Celery's application by the name that others rely on: `celery -A worker.app:app`."""

from __future__ import annotations

from celery import Celery

from worker.blas import multiply_alone, wait_briefly


def __getattr__(name: str) -> Celery:
    """Return `app`, built from the environment when Celery asks for it."""
    if name != "app":
        raise AttributeError(name)
    # Only now: it loads numpy.
    multiply_alone()
    wait_briefly()
    from worker.service import app as service  # noqa: PLC0415

    return service.app
