"""What a `submit` would do, without doing it: how many images, and how long they would take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from producer.backend.workers import WorkerInfo
from producer.console.durations import age
from producer.sources.scan import Image, path_of
from worker.contract.i18n import gettext as _
from worker.contract.i18n import ngettext
from worker.contract.printable import printable

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
        yield _("and {more:,} more").format(more=found.images - len(found.first))
    yield _("would send {images:,} images; nothing was sent").format(images=found.images)
    online = list(workers)
    if not online:
        yield _("no worker is online: how long it would take is not known")
        return
    rates = [one.images_per_s for one in online if one.images_per_s]
    if not rates:
        yield ngettext(
            "{workers:,} worker is online and idle: its speed is known once it has worked",
            "{workers:,} workers are online and idle: their speed is known once they have worked",
            len(online),
        ).format(workers=len(online))
        return
    rate = sum(rates)
    left = age((found.images + waiting) / rate)
    line = ngettext(
        "{workers:,} worker is online, at {rate:,.1f} images per second: about {left}",
        "{workers:,} workers are online, at {rate:,.1f} images per second: about {left}",
        len(online),
    ).format(workers=len(online), rate=rate, left=left)
    if waiting:
        line += _(", after {images:,} that wait already").format(images=waiting)
    yield line
