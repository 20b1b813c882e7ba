"""Steps of Celery's consumer: when a worker takes in chunks, and when it sends events.

Celery makes an object of each class and starts it with each connection to the broker. What the
steps work with is `services`, an attribute of the classes that `consumer_steps` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

import redis
import structlog
from celery import bootsteps
from celery.worker import state
from kombu.common import ignore_errors

from worker.contract.messages import MessageError
from worker.pipeline.capacity import Capacity
from worker.service.legacy import LegacyQueue
from worker.service.redis_contact import RedisContact

# Celery publishes events whenever its loop turns, once for each chunk or more often: a tenth of the
# main thread's work. A person who watches sees no difference.
EVENT_PAUSE_S: Final = 0.2
# How often a busy worker looks for urgent chunks, and whether anybody sends such.
URGENT_LOOK_S: Final = 0.01
URGENT_CHECK_S: Final = 1.0
LEGACY_LOOK_S: Final = 1.0

log = structlog.get_logger()


class Services(NamedTuple):
    """What the steps work with.

    No more than so many `chunks` are held, but for urgent ones, which have threads of their own.
    `set_latency_mode` is called with whether urgent chunks may come, `redis_contact` whenever Redis
    has answered. Leases are renewed every `lease_pause_s` while `is_healthy`: others are to have
    the chunks of a worker that is not. `legacy` takes what versions before the prefix have left.
    """

    capacity: Capacity
    chunks: int
    redis_contact: RedisContact
    set_latency_mode: Callable[[bool], None]
    is_healthy: Callable[[], bool]
    lease_pause_s: float
    legacy: LegacyQueue | None = None


class _Step(bootsteps.StartStopStep):
    """A step that begins when the worker consumes from the queue."""

    requires: ClassVar[set[str]] = {"celery.worker.consumer.tasks:Tasks"}
    services: ClassVar[Services]

    def __init__(self, parent: Any, **options: Any) -> None:
        self._timers: list[Any] = []
        super().__init__(parent, **options)

    def _repeat(self, parent: Any, pause_s: float, call: Callable[..., None], *args: Any) -> None:
        self._timers.append(parent.hub.call_repeatedly(pause_s, call, *args))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery passes it
        """End what is repeated. Also called before a start with a new connection."""
        _cancel(self._timers)


class EventPulse(_Step):
    """Publishes the events that have gathered, some times a second."""

    requires: ClassVar[set[str]] = {"celery.worker.consumer.events:Events"}

    def start(self, parent: Any) -> None:
        """Let events gather. Also called when the broker is back."""
        self.stop(parent)
        if parent.hub and parent.event_dispatcher:
            parent.event_dispatcher.on_send_buffered = None
            self._repeat(parent, EVENT_PAUSE_S, parent._flush_events)  # noqa: SLF001

    def stop(self, parent: Any) -> None:
        """Publish what has gathered, if the broker is there."""
        if self._timers:
            super().stop(parent)
            ignore_errors(parent, parent._flush_events)  # noqa: SLF001


class LeaseRenewal(_Step):
    """Renews the leases on what this worker holds."""

    def start(self, parent: Any) -> None:
        """Begin, with the channel of this connection."""
        self.stop(parent)
        if parent.hub:
            qos = parent.task_consumer.channel.qos
            self._repeat(parent, self.services.lease_pause_s, self._renew, parent, qos)

    def _renew(self, parent: Any, qos: Any) -> None:
        if self.services.is_healthy():
            ignore_errors(parent, qos.renew)


class Intake(_Step):
    """Asks for another chunk only while there is capacity for its images."""

    def start(self, parent: Any) -> None:
        """Set the condition on the channel, which is a new one after a reconnect."""
        capacity = self.services.capacity
        channel = parent.task_consumer.channel
        channel.qos.has_capacity = partial(_has_capacity, self.services)
        channel.on_unreadable = partial(_store_failure, parent)
        if parent.hub:
            # The loop sleeps until something happens, and this is something.
            capacity.on_left = lambda: parent.hub.call_soon(_nothing)


class UrgentIntake(_Step):
    """Takes urgent chunks while there is no capacity for others."""

    def __init__(self, parent: Any, **options: Any) -> None:
        self._looks: list[Any] = []
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        """Begin, with the channel of this connection."""
        self.stop(parent)
        # It did, when this channel was opened.
        self.services.redis_contact.answered()
        if parent.hub:
            channel = parent.task_consumer.channel
            self._repeat(parent, URGENT_CHECK_S, self._check, parent, channel)

    def stop(self, parent: Any) -> None:
        """End; urgent chunks that come later are taken in like all others."""
        super().stop(parent)
        _cancel(self._looks)

    def _check(self, parent: Any, channel: Any) -> None:
        """Find out whether urgent chunks may come, and look for them as long as they may."""
        is_possible = self._is_urgency_possible(channel)
        self.services.set_latency_mode(is_possible)
        if not is_possible:
            # Each look turns the loop, which costs more than the look.
            _cancel(self._looks)
        elif not self._looks:
            look = partial(_take_urgent, parent, channel, self.services)
            self._looks.append(parent.hub.call_repeatedly(URGENT_LOOK_S, look))

    def _is_urgency_possible(self, channel: Any) -> bool:
        try:
            is_possible = bool(channel.is_urgency_possible())
        except redis.TimeoutError:
            # Connections may have vanished silently: Celery makes all of them anew.
            raise
        except (redis.RedisError, OSError):
            # The connection that waits for messages will end for the same reason, if it stays.
            return False
        self.services.redis_contact.answered()
        return is_possible


class LegacyIntake(_Step):
    """Takes messages of versions before the prefix into our queue, if there are any."""

    def start(self, parent: Any) -> None:
        """Begin, with the channel of this connection."""
        self.stop(parent)
        if parent.hub and (old := self.services.legacy):
            channel = parent.task_consumer.channel
            for pause_s, take in (
                (LEGACY_LOOK_S, old.take_waiting),
                (self.services.lease_pause_s, old.take_lost),
            ):
                self._repeat(parent, pause_s, self._take, parent, channel, take)

    def _take(self, parent: Any, channel: Any, take: Callable[[Any], int]) -> None:
        with ignore_errors(parent):
            try:
                with channel.conn_or_acquire() as client:
                    if messages := take(client):
                        log.info("legacy.taken", messages=messages)
            except redis.exceptions.NoPermissionError:
                # Of a user who has rights below the prefix alone.
                self.stop(parent)


STEPS: Final[tuple[type[_Step], ...]] = (
    *(EventPulse, LeaseRenewal, Intake, UrgentIntake),
    LegacyIntake,
)


def consumer_steps(services: Services) -> list[type[bootsteps.StartStopStep]]:
    """Return the steps for one worker, to be added to those of its consumer."""
    return [type(step.__name__, (step,), {"services": services}) for step in STEPS]


def _has_capacity(services: Services) -> bool:
    held = len(state.reserved_requests)
    return services.capacity.is_left and held < services.chunks and not _are_chunks_starting()


def _take_urgent(parent: Any, channel: Any, services: Services) -> None:
    # With capacity left, the channel waits for the next message whatever it is.
    while not _has_capacity(services) and services.capacity.is_open and _is_thread_left(parent):
        if not ignore_errors(parent, channel.take_urgent):
            return


def _store_failure(parent: Any, task_id: str, reason: str, images: int) -> None:
    """Store why a message was not processed as its result, and count its images.

    Its sender may wait for one.

    On a thread of the pool: it may have to wait for Redis, which the main thread must not.
    """
    failure = (task_id, MessageError(reason), images)
    parent.pool.apply_async(parent.app.backend.mark_unreadable, failure, callback=_nothing)


def _cancel(timers: list[Any]) -> None:
    while timers:
        timers.pop().cancel()


def _are_chunks_starting() -> bool:
    """Whether chunks are on their way to threads: how many images they hold is not known yet."""
    return len(state.reserved_requests) - len(state.active_requests) > 1


def _is_thread_left(parent: Any) -> bool:
    return bool(len(state.reserved_requests) < parent.pool.num_processes)


def _nothing(*_: object) -> None:
    pass
