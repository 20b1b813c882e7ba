"""Messages that cannot be processed -> dead letters, wherever they are found."""

from __future__ import annotations

import logging
from collections.abc import Callable

from worker.contract.codec import encode
from worker.contract.queue.envelope import EnvelopeError, NewerMessageError
from worker.contract.queue.held import message_in
from worker.contract.queue.prefixed_channel import PrefixedChannel
from worker.contract.stores.dead_letters import NEWER_VERSION, UNREADABLE, DeadLetters, Unread

log = logging.getLogger(__name__)


class DeadLetterChannel(PrefixedChannel):
    """Moves what cannot be processed out of the way.

    `on_unreadable` is called with the id of such a message, if it has one, the reason, and the
    number of images if that is known; the message is a dead letter by then.
    """

    on_unreadable: Callable[[str, str, int], None] | None = None

    def dead_letter(self, raw: bytes, error: EnvelopeError, source: str) -> None:
        """Move a message that cannot be processed from a list to the dead letters."""
        log.error("message.unreadable: %d bytes, %s", len(raw), error)
        unread = Unread(raw, error.task_id or "", error.images, source)
        code = NEWER_VERSION if isinstance(error, NewerMessageError) else UNREADABLE
        with self.conn_or_acquire() as client:
            DeadLetters(client, self.keys).add_unread(unread, code, str(error))
        self._notify_unreadable(error)

    def dead_letter_held(self, tag: bytes | str, held: bytes, error: EnvelopeError) -> None:
        """Move what is held and cannot be processed to the dead letters; log it where it was."""
        # With an id, there is a message in it.
        body = held if error.task_id is None else encode(message_in(held))
        unread = Unread(body, error.task_id or "", error.images, self.keys.unacked)
        with self.conn_or_acquire() as client:
            if not DeadLetters(client, self.keys).add_held(unread, str(error), tag, held):
                return
        log.error("message.unreadable: %d bytes in %s, %s", len(held), self.keys.unacked, error)
        self._notify_unreadable(error)

    def _notify_unreadable(self, error: EnvelopeError) -> None:
        if error.task_id is not None and self.on_unreadable is not None:
            self.on_unreadable(error.task_id, str(error), error.images)
