"""Settings -> Redis with its stores, and a worker: the user's, or private ones of one command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

import msgspec
import redis
from celery import Celery

from producer.arguments import argument
from producer.backend.head_start import redis_and_worker
from producer.backend.label_checks import CHECKED_TTL_S, UnfitLabelsError, label_check
from producer.backend.local_worker import LocalWorker, check_libraries
from producer.backend.queue_problems import full_sentence, later_sentence, lost_sentence
from producer.backend.workers import WorkerInfo, online
from producer.errors import JobLostError, UnavailableError
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import DEFAULT_PREFIX
from worker.contract.labels import LabelPack, LabelStore
from worker.contract.messages import waiting_s
from worker.contract.queue.app import make_app
from worker.contract.queue.job_messages import LossCheck, newer_messages
from worker.contract.redis.connections import (
    BrokerUnreachableError,
    connect,
    retrying_client,
    single_try_client,
    unreachable,
)
from worker.contract.redis.key_types import is_wrong_type, wrong_type
from worker.contract.redis.memory import MemoryWatch
from worker.contract.redis.server_check import (
    check_server,
    producer_commands,
    refusal,
    result_commands,
    write_commands,
)
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.blobs import BlobStore
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.jobs import JobState, JobStore, NoSuchJobError

# A worker deep in work may be slow to answer; submit still fails within five seconds.
ONLINE_TIMEOUT_S: Final = 2.5
LAST_WORD_TIMEOUT_S: Final = 2.0


class Connection:
    """A Redis with its stores, and the workers that are online there."""

    def __init__(
        self, settings: Settings, app: Celery, local: LocalWorker | None, *, retries: bool = True
    ) -> None:
        """Take where to work. Without `retries`, what asks Redis fails as soon as Redis does."""
        client_of = retrying_client if retries else single_try_client
        self.settings = settings
        self.app = app
        self._local = local
        self.client: Any = client_of(settings.broker_url)
        client = self.client
        self._results: Any = client_of(settings.results)
        self.keys = keys = settings.keys
        self.jobs = JobStore(
            client,
            settings.result_ttl_s,
            keys=keys,
            results=self._results,
            replicas=settings.redis_wait_replicas,
        )
        self.blobs = BlobStore(client, settings.result_ttl_s, keys)
        self.labels = LabelStore(client, keys, ttl_s=waiting_s(settings.result_ttl_s))
        self.dead = DeadLetters(client, keys)
        is_apart = settings.results != settings.broker_url
        self.memory = MemoryWatch(client, self._results) if is_apart else MemoryWatch(client)

    def close(self) -> None:
        """Close the connections to Redis."""
        self.app.close()
        for client in (self.client, self._results):
            client.close()

    def first_worker(self, *, asks_twice: bool = False) -> WorkerInfo | None:
        """Return the first worker that answers in time; asked twice, also one that was starting."""
        if self._local:
            return self._local.info
        for _attempt in range(2 if asks_twice else 1):
            if found := online(self.app, ONLINE_TIMEOUT_S, limit=1):
                return found[0]
        return None

    def workers(self) -> list[WorkerInfo]:
        """Return all workers that answer in time."""
        return [self._local.info] if self._local else online(self.app, ONLINE_TIMEOUT_S)

    def check_labels(self, pack: LabelPack, worker: WorkerInfo) -> list[str]:
        """Return what a person should know of labels before images are sent.

        Raises:
            UnfitLabelsError: the worker's model cannot tell them apart, or does not know them.
        """
        if not pack.labels and not pack.background:
            return []
        kept = self.labels.put_briefly(pack, CHECKED_TTL_S)
        found = label_check(self.app, kept, worker.name)
        if refusals := found.refusals:
            raise UnfitLabelsError(refusals)
        return [str(sentence) for sentence in found.warnings]

    def check(self) -> None:
        """Raise EmbeddedError if a worker of our own has ended."""
        if self._local:
            self._local.check()

    def stall_reason(self, job: str) -> str:
        """Return why no result of a job comes, as far as that can be seen; else nothing.

        Raises:
            JobLostError: none ever will.
        """
        try:
            if refused := self._refusal(job):
                return refused
            self.jobs.get(job)
            if self.first_worker() is None:
                return _("no worker is online; the work is kept in the queue")
            return self._queue_problem()
        except BrokerUnreachableError as e:
            return str(e)
        except redis.RedisError as e:
            return str(unreachable(self.settings.broker_url, e))
        except NoSuchJobError as e:
            raise job_lost(job) from e

    def _queue_problem(self) -> str:
        """Return what may keep workers from the messages though all are there; else nothing."""
        if self.memory.is_short:
            return full_sentence(self.memory.percent)
        newer = newer_messages(self.client, self.keys)
        return later_sentence(newer) if newer else ""

    def loss_check(self, job: str) -> LossCheck:
        """Return what finds out whether messages of a job have vanished."""
        return LossCheck(self.client, self.jobs, job)

    def loss_watch(self, job: str) -> Callable[[], str]:
        """Return what finds out whether messages of a job have vanished, and returns a sentence.

        It is called often while nothing of the job comes, and mostly returns nothing.
        """
        check = self.loss_check(job)

        def look() -> str:
            try:
                lost = check.look()
            except (redis.RedisError, NoSuchJobError):
                return ""  # Whoever waits finds that out by itself.
            return lost_sentence(job, lost) if lost else ""

        return look

    def _refusal(self, job: str) -> str:
        """Return why Redis takes no work at the moment, though it answers; else nothing."""
        broker, results = self.settings.broker_url, self.settings.results
        with connect(broker) as client:
            reason, where = refusal(client, write_commands(self.keys)), broker
            reason = reason or str(wrong_type(client, self.keys, job) or "")
        if not reason and results != broker:
            with connect(results) as client:
                reason, where = refusal(client, result_commands(self.keys)), results
        if reason:
            return _("Redis at {url} refuses work: {reason}").format(url=where, reason=reason)
        return ""

    def try_set_state(self, job: str, state: JobState) -> None:
        """Set the job's state if Redis is there; someone wants to leave, so do not wait for it."""
        url, ttl_s = self.settings.broker_url, self.settings.result_ttl_s
        with (
            suppress(BrokerUnreachableError, redis.RedisError, NoSuchJobError),
            connect(url, timeout_s=LAST_WORD_TIMEOUT_S) as client,
        ):
            JobStore(client, ttl_s, keys=self.keys).set_state(job, state)


def job_lost(job: str) -> JobLostError:
    """Return the error for a job under way that Redis does not know any more."""
    return JobLostError(
        _("Redis has lost job {job} (did it restart without its data?): submit again").format(
            job=job
        )
    )


def check_redis(settings: Settings) -> None:
    """Make sure that the Redis of the settings, and that of the results, can be used.

    Raises:
        BrokerUnreachableError: one does not answer.
        ServerUnfitError: one is too old, in cluster mode, or the user lacks rights there.
    """
    keys = settings.keys
    wanted = {settings.broker_url: producer_commands(keys, settings.redis_wait_replicas)}
    wanted[settings.results] = wanted.get(settings.results, ()) + result_commands(keys)
    for url, commands in wanted.items():
        try:
            with connect(url) as client:
                check_server(client, url, commands)
        except redis.RedisError as e:
            raise unreachable(url, e) from e


@contextmanager
def _advised(settings: Settings) -> Iterator[None]:
    """Say what can be done where nobody has said which Redis to take, and none is there."""
    try:
        yield
    except BrokerUnreachableError as e:
        if settings.broker_url != Settings().broker_url:
            raise
        raise BrokerUnreachableError(
            N_("{error} (start one, or set WANWU_BROKER_URL; {own_redis} needs none)"),
            error=e,
            own_redis=argument("own_redis"),
        ) from e


@contextmanager
def _names_wrong_type(settings: Settings) -> Iterator[None]:
    """Say which name holds something of another type, where a command has met that."""
    try:
        yield
    except (redis.RedisError, UnavailableError) as e:
        if not (is_wrong_type(e) or is_wrong_type(e.__cause__)):
            raise
        url, found = settings.broker_url, None
        with suppress(BrokerUnreachableError, redis.RedisError), connect(url) as client:
            found = wrong_type(client, settings.keys)
        if found is None:
            raise
        msg = _("Redis at {url} refuses work: {reason}").format(url=url, reason=found)
        raise UnavailableError(msg) from e


@contextmanager
def open_connection(
    settings: Settings,
    *,
    embedded: bool = False,
    model: str | None = None,
    echo: Callable[[str], object] = lambda _: None,
    retries: bool = True,
) -> Iterator[Connection]:
    """Yield a connection to the broker of the settings, or to one of this block alone.

    `echo` is called with what takes long before it can begin. Without `retries`, what asks Redis
    fails as soon as Redis does: for programs that answer others, who have time-outs of their own.

    Raises:
        BrokerUnreachableError: Redis does not answer.
        ServerUnfitError: it is too old, in cluster mode, or the user lacks rights there.
        EmbeddedError: the private server or worker does not come up.
    """
    if embedded:
        with _open_private(settings, model, echo) as connection:
            yield connection
        return
    with _advised(settings):
        check_redis(settings)
    app = make_app(settings, stores_results=False)
    with (
        _names_wrong_type(settings),
        closing(Connection(settings, app, None, retries=retries)) as connection,
    ):
        yield connection


@contextmanager
def _open_private(
    settings: Settings, model: str | None, echo: Callable[[str], object]
) -> Iterator[Connection]:
    """Yield a connection to a Redis and a worker of this block alone."""
    check_libraries()
    echo(_("starting a private Redis"))
    with redis_and_worker(model) as (server, worker):
        private = msgspec.structs.replace(
            settings,
            broker_url=SecretUrl(server.url),
            result_url=SecretUrl(),
            prefix=DEFAULT_PREFIX,
        )
        app = make_app(private, stores_results=False)
        with (
            LocalWorker(app, model, echo, worker) as local,
            closing(Connection(private, app, local)) as connection,
        ):
            yield connection
