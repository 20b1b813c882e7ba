"""Steps of Celery's consumer: when a worker takes in chunks, and when it tells of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import redis
from celery import bootsteps
from celery.worker import state
from kombu.common import ignore_errors

from worker.pipeline.capacity import Capacity
from worker.service.redis_contact import RedisContact

# Celery publishes events whenever its loop turns, once for each chunk or oftener: a tenth of the
# main thread's work. A person who watches sees no difference.
EVENT_PAUSE_S: Final = 0.2
# How often a busy worker looks for urgent chunks, and whether anybody sends such.
URGENT_LOOK_S: Final = 0.01
URGENT_NEWS_S: Final = 1.0


class EventPulse(bootsteps.StartStopStep):
    """Publishes the events that have gathered, some times a second."""

    requires: Final = {"celery.worker.consumer.events:Events"}

    def __init__(self, parent: Any, **options: Any) -> None:
        self._timer: Any = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        """Take the dispatcher's own haste away. Also called when the broker is back."""
        self.stop(parent)
        if parent.hub and parent.event_dispatcher:
            parent.event_dispatcher.on_send_buffered = None
            self._timer = parent.hub.call_repeatedly(EVENT_PAUSE_S, parent._flush_events)  # noqa: SLF001

    def stop(self, parent: Any) -> None:
        """Publish what has gathered, if the broker is there, and rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            ignore_errors(parent, parent._flush_events)  # noqa: SLF001


def lease_step(pause_s: float, is_well: Callable[[], bool]) -> type[bootsteps.StartStopStep]:
    """Return the step that renews the leases on what this worker holds, every so many seconds.

    A worker that is not well renews none: others are to have its chunks.
    """

    class Lease(bootsteps.StartStopStep):
        requires: Final = {"celery.worker.consumer.tasks:Tasks"}

        def __init__(self, parent: Any, **options: Any) -> None:
            self._timer: Any = None
            super().__init__(parent, **options)

        def start(self, parent: Any) -> None:
            """Begin, with the channel of this connection."""
            self.stop(parent)
            if parent.hub:
                qos = parent.task_consumer.channel.qos
                self._timer = parent.hub.call_repeatedly(pause_s, self._renew, parent, qos)

        def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery passes it
            """End; what is held is this worker's for one lease more."""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _renew(self, parent: Any, qos: Any) -> None:
            if is_well():
                ignore_errors(parent, qos.renew)

    return Lease


def intake_step(capacity: Capacity) -> type[bootsteps.StartStopStep]:
    """Return the step that asks for another chunk only while there is room for its images."""

    class Intake(bootsteps.StartStopStep):
        requires: Final = {"celery.worker.consumer.tasks:Tasks"}

        def start(self, parent: Any) -> None:
            """Add the condition to those of the channel, which is a new one after a reconnect."""
            qos = parent.task_consumer.channel.qos
            can_consume = qos.can_consume
            qos.can_consume = lambda: capacity.is_left and not _is_expecting() and can_consume()
            if parent.hub:
                # The loop sleeps until something happens, and this is something.
                capacity.on_left = lambda: parent.hub.call_soon(_nothing)

    return Intake


def urgent_step(
    capacity: Capacity, set_latency_mode: Callable[[bool], None], redis_contact: RedisContact
) -> type[bootsteps.StartStopStep]:
    """Return the step that looks for urgent chunks while there is no room for others.

    `set_latency_mode` hears whether there may be such, and `redis_contact` that Redis answers: this
    step asks it something every second.
    """

    class Urgent(bootsteps.StartStopStep):
        requires: Final = {"celery.worker.consumer.tasks:Tasks"}

        def __init__(self, parent: Any, **options: Any) -> None:
            self._asking: list[Any] = []
            self._looking: list[Any] = []
            super().__init__(parent, **options)

        def start(self, parent: Any) -> None:
            """Begin, with the channel of this connection."""
            self.stop(parent)
            # It did, when this channel was opened.
            redis_contact.answered()
            if parent.hub:
                hub, channel = parent.hub, parent.task_consumer.channel
                self._asking.append(hub.call_repeatedly(URGENT_NEWS_S, self._ask, parent, channel))

        def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery passes it
            """End; messages that come later are taken like all others."""
            _cancel(self._asking)
            _cancel(self._looking)

        def _ask(self, parent: Any, channel: Any) -> None:
            try:
                is_possible = channel.is_urgency_possible()
                redis_contact.answered()
            except redis.TimeoutError:
                # Connections may have vanished without a word: Celery makes all of them anew.
                raise
            except (redis.RedisError, OSError):
                # The connection that waits for messages will end for the same reason, if it stays.
                is_possible = False
            set_latency_mode(is_possible)
            if not is_possible:
                # Each look turns the loop, which costs more than the look.
                _cancel(self._looking)
            elif not self._looking:
                look = (_take_urgent, parent, channel, capacity)
                self._looking.append(parent.hub.call_repeatedly(URGENT_LOOK_S, *look))

    return Urgent


def _take_urgent(parent: Any, channel: Any, capacity: Capacity) -> None:
    # With room, the channel waits for the next message whatever it is.
    while not capacity.is_left and capacity.is_open:
        if not ignore_errors(parent, channel.take_urgent):
            return


def _cancel(timers: list[Any]) -> None:
    while timers:
        timers.pop().cancel()


def _is_expecting() -> bool:
    """Whether chunks are on their way to threads: how many images they hold is not known yet."""
    return len(state.reserved_requests) - len(state.active_requests) > 1


def _nothing() -> None:
    pass
