"""What a `submit` would do, without doing it: how many images, and how long they would take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from producer.backend.workers import WorkerInfo
from producer.console.paths import printable
from producer.console.tables import age
from producer.sources.scan import Image, path_of

SHOWN: Final = 5


class DryRun(msgspec.Struct):
    """What was found."""

    images: int = 0
    first: list[str] = []


def dry_run(images: Iterable[Image]) -> DryRun:
    """Go through the images, and send none."""
    found = DryRun()
    for image in images:
        found.images += 1
        if len(found.first) < SHOWN:
            found.first.append(path_of(image))
    return found


def lines(found: DryRun, workers: Iterable[WorkerInfo], waiting: int) -> Iterator[str]:
    """Yield what a person wants to know of it. So many images of other jobs are `waiting`."""
    yield from map(printable, found.first)
    if found.images > len(found.first):
        yield f"and {found.images - len(found.first):,} more"
    yield f"would send {found.images:,} images; nothing was sent"
    online = list(workers)
    if not online:
        yield "no worker is online: how long they would take is not known"
        return
    rates = [one.images_per_s for one in online if one.images_per_s]
    names = "1 worker is" if len(online) == 1 else f"{len(online):,} workers are"
    if not rates:
        yield f"{names} online, and idle: how fast they are is known once they have worked"
        return
    rate = sum(rates)
    before = f", after {waiting:,} that wait already" if waiting else ""
    left = age((found.images + waiting) / rate)
    yield f"{names} online, at {rate:,.1f} images a second: about {left}{before}"
