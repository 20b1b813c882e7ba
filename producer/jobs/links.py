"""Where jobs are: at a Redis, or behind a `producer serve`. One interface, opened by a block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from producer.backend.connection import Connection, open_connection
from producer.errors import UsageError
from producer.jobs.cancel import cancel
from producer.jobs.http_client import HttpClient
from producer.jobs.http_transport import HttpTransport
from producer.jobs.redis_transport import RedisTransport
from producer.jobs.results import StoredResults, wait
from producer.jobs.run import Echo, Transport
from worker.contract.i18n import gettext as _
from worker.contract.messages import Record
from worker.contract.settings import Settings
from worker.contract.stores.jobs import Job, JobStore

_POLL_S: Final = 0.5


class Link(Protocol):
    """Begins jobs, and finds those that were begun."""

    @property
    def jobs(self) -> JobStore | None:
        """The jobs in Redis, if it can be reached from here."""

    @property
    def connection(self) -> Connection:
        """The connection to Redis.

        Raises:
            UsageError: there is none from here.
        """

    def transport(self) -> Transport:
        """Return what carries a new job."""

    def job(self, job: str) -> Job:
        """Return how far a job is.

        Raises:
            NoSuchJobError: there is none.
        """

    def cancel(self, job: str) -> Job:
        """Cancel a job, unless it is finished; return it."""

    def wait(self, job: str, echo: Echo) -> None:
        """Return when a job is finished; `echo` is called with why nothing comes for long."""

    def results(self, job: str, *, drops: bool = False) -> Iterator[list[Record]]:
        """Yield the records of a job that are there; with `drops`, delete those yielded before."""


class RedisLink:
    """Jobs at a Redis: that of the settings, or a private one with a worker."""

    def __init__(
        self, settings: Settings, model: str | None, echo: Echo, *, embedded: bool
    ) -> None:
        self._stack = ExitStack()
        self._opens = open_connection(settings, embedded=embedded, model=model, echo=echo)

    def __enter__(self) -> Self:
        self.connection: Connection = self._stack.enter_context(self._opens)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def jobs(self) -> JobStore:
        """The jobs in Redis."""
        return self.connection.jobs

    def transport(self) -> RedisTransport:
        """Return what carries a new job."""
        return RedisTransport(self.connection)

    def job(self, job: str) -> Job:
        """Return how far a job is."""
        return self.jobs.get(job)

    def cancel(self, job: str) -> Job:
        """Cancel a job, unless it is finished; return it."""
        return cancel(self.connection, job)

    def results(self, job: str, *, drops: bool = False) -> Iterator[list[Record]]:
        """Yield the records of a job that are there."""
        return StoredResults(self.jobs, job).records(drops=drops)

    def wait(self, job: str, echo: Echo) -> None:
        """Return when a job is finished; `echo` is called with why nothing comes for long."""

        def stalled() -> None:
            if reason := self.connection.stall_reason(job):
                echo(_("waiting: {reason}").format(reason=reason))

        lost = self.connection.loss_watch(job)

        def still() -> None:
            if sentence := lost():
                echo(sentence)

        retry_timeout_s = float(self.connection.settings.redis_retry_timeout_s)
        wait(self.jobs, job, stalled, on_still=still, retry_timeout_s=retry_timeout_s)


class HttpLink:
    """Jobs behind a `producer serve`."""

    jobs: Final = None

    def __init__(self, settings: Settings, url: str) -> None:
        timeout_s = float(settings.redis_retry_timeout_s)
        self._http = HttpClient(url, settings.api_key.reveal(), timeout_s)
        self._max_file_bytes = settings.max_file_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    @property
    def connection(self) -> Connection:
        """Behind a server there is no connection to Redis.

        Raises:
            UsageError: always.
        """
        msg = _("this needs a Redis: behind {server} it cannot be reached").format(
            server=self._http.url
        )
        raise UsageError(msg)

    def transport(self) -> HttpTransport:
        """Return what carries a new job."""
        return HttpTransport(self._http, self._max_file_bytes)

    def job(self, job: str) -> Job:
        """Return how far a job is; when it was begun, and of what, a server does not say."""
        return _job(self._http.job(job))

    def cancel(self, job: str) -> Job:
        """Cancel a job, unless it is finished; return it."""
        self._http.cancel(job)
        return self.job(job)

    def wait(self, job: str, echo: Echo) -> None:  # noqa: ARG002
        """Return when a job is finished."""
        while not self.job(job).finished:
            time.sleep(_POLL_S)

    def results(self, job: str, *, drops: bool = False) -> Iterator[list[Record]]:
        """Yield the records of a job that are there; a server keeps them for their time.

        Raises:
            UsageError: they are to be deleted.
        """
        if drops:
            _ = self.connection
        return self._http.records(job, follow=False)


def _job(answer: dict[str, Any]) -> Job:
    state = "submitted" if answer["state"] == "finished" else answer["state"]
    return msgspec.convert(answer | {"state": state, "created_at_s": 0.0}, Job)
