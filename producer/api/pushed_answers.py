"""Results of urgent chunks, as workers publish them -> whoever waits for them.

Workers publish each result beside storing it, as Celery's own backend does. What is published while
nobody listens is lost: who waits must also ask for stored results now and then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

import redis

from worker.contract.keys import Keys
from worker.contract.messages import ChunkResult, split_task_id
from worker.contract.redis.errors import reason_of
from worker.contract.stores.job_records import outcome
from worker.contract.stores.jobs import LostChunk

# How often the thread looks whether it is to end, and how long it waits after an error.
_TURN_S: Final = 0.25
_AWAY_S: Final = 1.0
# Jobs of servers begin so. One pattern for all servers: Redis lets a user of limited rights
# subscribe to patterns that it knows letter by letter.
URGENT_JOB: Final = "now-"

log = logging.getLogger(__name__)


class PushedAnswers:
    """Listens in a thread of its own. `on_answer` is called there with each result of one job."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        job: str,
        on_answer: Callable[[ChunkResult | LostChunk], None],
    ) -> None:
        """Take a client of the Redis that has the results; it should not try again by itself."""
        self._client: Any = client
        self._pattern = keys.result(f"{URGENT_JOB}*")
        self._before = keys.result("")
        self._job = job
        self._on_answer = on_answer
        self._stopping = threading.Event()
        self._is_live = False
        self._thread = threading.Thread(target=self._run, name="pushed", daemon=True)

    @property
    def is_live(self) -> bool:
        """Whether results come by themselves, as far as that is known."""
        return self._is_live

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a fraction of a second."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except redis.exceptions.NoPermissionError as e:
                log.warning("answers are asked for, not pushed: %s", reason_of(e))
                return
            except (redis.RedisError, OSError):
                # Whoever asks Redis says what the matter is.
                self._stopping.wait(_AWAY_S)
            finally:
                self._is_live = False

    def _listen(self) -> None:
        with self._client.pubsub() as channel:
            channel.psubscribe(self._pattern)
            while not self._stopping.is_set():
                message = channel.get_message(timeout=_TURN_S)
                if message is None:
                    continue
                if message["type"] == "psubscribe":
                    self._is_live = True
                elif message["type"] == "pmessage":
                    self._take(message["channel"], message["data"])

    def _take(self, channel: bytes, body: bytes) -> None:
        place = split_task_id(channel.decode(errors="replace").removeprefix(self._before))
        if place is None or place[0] != self._job:
            return
        try:
            found = outcome(place[1], body)
        except (ValueError, TypeError, AttributeError):
            # It is stored as well: who asks for that finds out what it is.
            return
        self._on_answer(found)
