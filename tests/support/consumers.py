"""A message in the queue, and a consumer that takes it as a worker does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from conftest import PATIENCE_S
from kombu import Consumer, Queue

from worker.contract.messages import QUEUE, TASK, Chunk, ImageRef
from worker.contract.queue.app import make_app
from worker.contract.settings import Settings


def send(settings: Settings, seq: int = 0, path: str = "/a", priority: int | None = None) -> None:
    chunk = Chunk(job="j", seq=seq, images=(ImageRef(path),), sent_at_s=1.0)
    app = make_app(settings, stores_results=False)
    app.send_task(TASK, args=[chunk.to_wire()], task_id=chunk.task_id, priority=priority)


@contextmanager
def consuming(settings: Settings) -> Iterator[tuple[Any, list[Any]]]:
    """A consumer as a worker has it, without a loop: `drain_events` takes one message."""
    messages: list[Any] = []
    app = make_app(settings, stores_results=False)
    with app.connection_for_read() as connection:
        consumer = Consumer(connection, [Queue(QUEUE)], on_message=messages.append, accept=["json"])
        with consumer:
            yield connection, messages


def take(connection: Any) -> None:
    with suppress(TimeoutError, redis.TimeoutError):
        connection.drain_events(timeout=PATIENCE_S)
