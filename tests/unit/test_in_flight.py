"""A chunk's thread waits once, for the last of its images."""

from __future__ import annotations

import threading

import numpy as np
from conftest import PATIENCE_S

from worker.contract.messages import ImageRef
from worker.pipeline.batch_policy import Inferred
from worker.pipeline.in_flight import ChunkLatch, ImageTask
from worker.pipeline.stats import Stopwatch

INFERRED = Inferred(np.zeros(2, np.float32), 0.0, 1.0, 1)


def image_tasks(count: int) -> list[ImageTask]:
    return [ImageTask(ImageRef(f"/{n}.jpg"), Stopwatch(lambda: 0.0, 0.0)) for n in range(count)]


def test_it_ends_with_the_last_image_whatever_became_of_each() -> None:
    images, landed = image_tasks(3), list[None]()
    latch = ChunkLatch(images, lambda: landed.append(None))
    arrived = threading.Event()

    def wait() -> None:
        latch.wait()
        arrived.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    error = ValueError("broken")
    latch.complete(images[1], error)
    latch.complete(images[0], INFERRED)
    assert not arrived.is_set()
    latch.complete(images[2], INFERRED)
    assert arrived.wait(PATIENCE_S)
    waiter.join(PATIENCE_S)
    assert [image.outcome for image in images] == [INFERRED, error, INFERRED]
    assert len(landed) == 3
