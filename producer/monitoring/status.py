"""Redis and the workers -> what a person, or a program, wants to know of them now."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import redis
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from producer.backend.queue_problems import later_sentence
from producer.backend.workers import BrokerRefusesError, WorkerInfo, online
from producer.monitoring import status_tables as tables
from worker.contract.i18n import gettext as _
from worker.contract.printable import printable
from worker.contract.queue.job_messages import look_twice, newer_messages
from worker.contract.redis.connections import BrokerUnreachableError, connect, unreachable
from worker.contract.redis.errors import passes
from worker.contract.redis.key_types import wrong_type
from worker.contract.stores.dead_letters import DeadLetter
from worker.contract.stores.jobs import Job

if TYPE_CHECKING:
    from producer.backend.connection import Connection

ASK_TIMEOUT_S: Final = 1.0
# So long between two looks, where only one was asked for: what moves, moves meanwhile.
GLANCE_S: Final = 1.0
PAUSE_S: Final = 2.0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. Rates are images a second, by job; `newer` are messages of a later version.

    Where workers could not be asked, `workers_unknown` says why.
    """

    jobs: tuple[Job, ...]
    workers: tuple[WorkerInfo, ...]
    dead: tuple[DeadLetter, ...]
    job_rates: Mapping[str, float]
    one_job: bool
    newer: int = 0
    workers_unknown: str = ""
    # What keeps the work from being done.
    problem: str = ""

    def as_json(self) -> str:
        """Return it as one JSON object, Chinese legible."""
        jobs = [
            msgspec.to_builtins(job)
            | {
                "state": job.status,
                "outstanding": job.outstanding,
                "images_per_s": self.job_rates.get(job.id),
            }
            for job in self.jobs
        ]
        workers = msgspec.to_builtins(self.workers)
        found = {"jobs": jobs, "workers": workers, "dead_letters": len(self.dead)}
        found |= {"messages_of_later_version": self.newer}
        found |= {"workers_unknown": self.workers_unknown}
        return json.dumps(found, ensure_ascii=False)

    def group(self, width: int) -> Group:
        """Return tables for a terminal of this width."""
        problem = [Text(self.problem)] if self.problem else []
        if self.one_job:
            (job,) = self.jobs
            return Group(tables.job_details(job, self.job_rates.get(job.id)), *problem)
        jobs = tables.jobs_table(self.jobs, self.job_rates, width)
        workers: Table | Text = tables.workers_table(self.workers, width)
        if self.workers_unknown:
            message = _("workers cannot be asked: {reason}")
            workers = Text(printable(message.format(reason=self.workers_unknown)))
        dead = [tables.dead_table(self.dead, width)] if self.dead else []
        later = [Text(later_sentence(self.newer))] if self.newer else []
        return Group(jobs, workers, *dead, *later, *problem)

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print(self.group(console.width))


class StatusSampler:
    """Looks again and again; what has changed since gives the rates."""

    def __init__(self, connection: Connection, job: str | None) -> None:
        self._connection = connection
        self._job = job
        self._before: tuple[float, dict[str, int]] | None = None

    def now(self) -> State:
        """Return the state, after a second look if something is under way.

        Raises:
            NoSuchJobError: the job that was asked about is not there.
        """
        state = self._look()
        if any(job.outstanding for job in state.jobs):
            time.sleep(GLANCE_S)
            before = {job.id: job.done for job in state.jobs}
            state = self._look()
            still = [job for job in state.jobs if job.done == before.get(job.id)]
            if self._finds_lost(still):
                state = self._look()
        return state

    def _finds_lost(self, jobs: Sequence[Job]) -> bool:
        """Whether messages of these jobs have vanished; not where Redis refuses to count them."""
        try:
            return bool(look_twice(self._connection.client, self._connection.jobs, jobs))
        except redis.ResponseError as e:
            if not passes(e):
                raise
            return False

    def watch(self, console: Console, echo: Callable[[str], None]) -> None:
        """Show the state until somebody interrupts; `echo` is called with why there is none.

        Raises:
            NoSuchJobError: the job that was asked about is not there.
        """
        if not console.is_terminal:
            while True:
                seen = self._look_or_reason()
                if isinstance(seen, State):
                    seen.show(console)
                else:
                    echo(seen)
                time.sleep(PAUSE_S)
        last = Group()
        with Live(last, console=console, auto_refresh=False) as live:
            while True:
                seen = self._look_or_reason()
                if isinstance(seen, State):
                    last = seen.group(console.width)
                    live.update(last, refresh=True)
                else:
                    # Under what was seen last.
                    live.update(Group(last, Text(printable(seen))), refresh=True)
                time.sleep(PAUSE_S)

    def _look_or_reason(self) -> State | str:
        """Return the state, or why it cannot be seen at the moment."""
        try:
            # The connection's own client would try for half a minute, in silence.
            with connect(self._connection.settings.broker_url):
                return self._look()
        except BrokerUnreachableError as e:
            return _("waiting: {reason}").format(reason=e)
        except redis.RedisError as e:
            if not passes(e):
                raise
            return _("waiting: {reason}").format(
                reason=unreachable(self._connection.settings.broker_url, e)
            )

    def _look(self) -> State:
        connection = self._connection
        odd = wrong_type(connection.client, connection.keys, self._job or "")
        jobs = [connection.jobs.get(self._job)] if self._job else connection.jobs.list()
        workers, unknown = [], ""
        try:
            workers = [] if self._job else online(connection.app, ASK_TIMEOUT_S)
        except BrokerRefusesError as e:
            unknown = str(e)
        done = {job.id: job.done for job in jobs}
        now_s = time.monotonic()
        before_s, done_before = self._before or (now_s, {})
        self._before = (now_s, done)
        passed_s = now_s - before_s
        return State(
            jobs=tuple(jobs),
            workers=tuple(workers),
            dead=() if self._job else tuple(connection.dead.list()),
            job_rates=_rates(done, done_before, passed_s),
            one_job=self._job is not None,
            newer=newer_messages(connection.client, connection.keys),
            workers_unknown=unknown,
            problem=str(odd or ""),
        )


def _rates(now: Mapping[str, int], before: Mapping[str, int], passed_s: float) -> dict[str, float]:
    return {name: (n - before[name]) / passed_s for name, n in now.items() if name in before}
