"""Celery's remote control, which asks over a connection of its own.

Celery takes one of its pool for the answers and, while it holds that, a second one to send: as many
threads as the pool has connections wait for each other for ever. Here each question has one
connection, out of no pool, for both. Those of the pool are for sending alone: each is given back
after one send, whose time-outs are ours.
"""

from __future__ import annotations

from typing import Any

from celery.app.control import Control
from kombu.pidbox import Mailbox


class BoundMailbox(Mailbox):
    """Sends over the connection that it is bound to."""

    def __call__(self, connection: Any) -> Mailbox:
        """Return a mailbox for one connection."""
        bound: Mailbox = super().__call__(connection)
        bound.producer_pool = None
        return bound


class OwnConnections(Control):
    """Celery's, for any number of threads at a time."""

    Mailbox = BoundMailbox

    def broadcast(self, *arguments: Any, connection: Any = None, **options: Any) -> Any:
        """Send a command to workers, and return what they answer, if that is asked for."""
        if connection is not None:
            return super().broadcast(*arguments, connection=connection, **options)
        with self.app.connection_for_write() as own:
            return super().broadcast(*arguments, connection=own, **options)
