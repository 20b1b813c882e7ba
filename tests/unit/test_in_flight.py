"""A chunk's thread waits once, for the last of its images."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest
from conftest import PATIENCE_S

from worker.contract.messages import ImageRef
from worker.pipeline.batch_policy import Inferred
from worker.pipeline.in_flight import Flight, Journey
from worker.pipeline.stats import Stopwatch

INFERRED = Inferred(np.zeros(2, np.float32), 0.0, 1.0, 1)


def journeys(count: int) -> list[Journey]:
    return [Journey(ImageRef(f"/{n}.jpg"), Stopwatch(lambda: 0.0, 0.0)) for n in range(count)]


def test_it_ends_with_the_last_image_whatever_became_of_each() -> None:
    images, landed = journeys(3), list[None]()
    flight = Flight(images, lambda: landed.append(None))
    arrived = threading.Event()

    def wait() -> None:
        flight.wait()
        arrived.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    error = ValueError("broken")
    flight.land(images[1], error)
    flight.land(images[0], INFERRED)
    assert not arrived.is_set()
    flight.land(images[2], INFERRED)
    assert arrived.wait(PATIENCE_S)
    waiter.join(PATIENCE_S)
    assert [image.outcome for image in images] == [INFERRED, error, INFERRED]
    assert len(landed) == 3


@pytest.mark.parametrize("error", [None, MemoryError()])
def test_an_image_lands_with_its_future(error: Exception | None) -> None:
    (image,) = journeys(1)
    flight, future = Flight([image]), Future[Inferred]()
    flight.land_with(image, future)
    if error is None:
        future.set_result(INFERRED)
    else:
        future.set_exception(error)
    flight.wait()
    assert image.outcome is (error or INFERRED)
