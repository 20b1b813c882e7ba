"""Flower's broker -> our settings of it, and how many messages its queues hold.

Flower knows the kinds of Redis itself, each with options of its own. Ours come from one place.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any, Final

from worker.contract.keys import Keys
from worker.contract.messages import QUEUE
from worker.contract.queue.app import PREFIX_OPTION
from worker.contract.queue.fair import FairQueue
from worker.contract.queue.url_numbers import URL_NUMBER, url_of
from worker.contract.redis.connections import connect
from worker.contract.settings import Settings, SettingsError

# In the order in which Celery's command looks for the URL.
_VARIABLES: Final = ("CELERY_BROKER_URL", "BROKER_URL")
_TIMEOUT_S: Final = 2.0


class QueueLengths:
    """Stands for Flower's `Broker`, which its Broker page and its API ask."""

    def __init__(self, _url: str, *, broker_options: dict[str, Any], **_options: Any) -> None:
        self._url = url_of(broker_options[URL_NUMBER])
        self._keys = Keys(broker_options[PREFIX_OPTION])

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return the length of each queue, as Flower has it."""
        return await asyncio.to_thread(self._lengths, list(names))

    def _lengths(self, names: list[str]) -> list[dict[str, Any]]:
        with connect(self._url, timeout_s=_TIMEOUT_S) as client, client.pipeline() as pipe:
            for name in names:
                if name == QUEUE:
                    # In ours, the messages of all jobs.
                    pipe.execute_command(*FairQueue(self._keys).size_command())
                else:
                    pipe.llen(f"{self._keys.prefix}{name}")
            lengths = pipe.execute()
        return [
            {"name": name, "messages": length} for name, length in zip(names, lengths, strict=True)
        ]


def settings_of(capp: Any) -> Settings:
    """Return our settings, with the broker that Flower was started for.

    Raises:
        SystemExit: the URL cannot be used, in a sentence.
    """
    return _settings(capp.conf.broker_url)


def check_url() -> None:
    """Look at the URL before Celery does, which would print it.

    Raises:
        SystemExit: it cannot be used, in a sentence.
    """
    _settings(next(filter(None, map(os.environ.get, _VARIABLES)), None))


def _settings(url: str | None) -> Settings:
    try:
        return Settings.from_env(broker_url=url)
    except SettingsError as e:
        msg = f"error: {e}"
        raise SystemExit(msg) from e
