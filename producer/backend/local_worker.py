"""A worker process of our own, for the life of a command."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final, Self

import redis
from celery import Celery

from producer.arguments import argument
from producer.backend.subprocesses import WORKER, is_error, without_prefix
from producer.backend.worker_process import (
    STOP_GRACE_S,
    is_artifact,
    worker_environment,
    worker_process,
)
from producer.backend.workers import WorkerInfo, online
from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.local.redis_server import EmbeddedError
from worker.contract.local.subprocesses import ManagedProcess
from worker.contract.queue.url_numbers import broker_url_of
from worker.contract.redis.connections import single_try_client

START_TIMEOUT_S: Final = 120.0
SAY_EVERY_S: Final = 10.0
_ASK_S: Final = 0.5


def check_libraries() -> None:
    """Make sure that a worker can run here.

    Raises:
        EmbeddedError: with what to install.
    """
    if missing("worker"):
        msg = _("{embedded} runs a worker, which needs: {install}").format(
            embedded=argument("embedded"), install=remedy("worker", "embedded")
        )
        raise EmbeddedError(msg)


class LocalWorker:
    """Inside the `with` block a worker is online at the broker; afterwards it is gone.

    A model that is no artifact yet is exported first; `echo` is called with how that goes.

    Raises:
        EmbeddedError: on entering, with the worker's own reason, if it does not come up.
    """

    def __init__(
        self,
        app: Celery,
        model: str | None,
        echo: Callable[[str], object],
        begun: ManagedProcess | None = None,
    ) -> None:
        """Take the broker and the model; `begun` is the worker's process, if it runs already."""
        self._app = app
        self._model = model
        self._echo = echo
        self._worker = begun
        self.info: WorkerInfo

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the worker and return once its model is warm."""
        if self._model and not is_artifact(self._model):
            self._model = self._export(self._model)
        self._echo(_("starting a worker, which loads its model"))
        if self._worker is None:
            self._worker = worker_process(self._url, self._model)
            self._worker.start()
        with closing(single_try_client(broker_url_of(self._app))) as client:
            answer = Answer(self._app, client, self._echo, self._learn)
            if self._worker.wait_until(answer, START_TIMEOUT_S):
                return
        if not self._worker.is_running:
            raise EmbeddedError(self._reason())
        msg = _("the worker did not start within {seconds:.0f} s: {output}")
        raise EmbeddedError(msg.format(seconds=START_TIMEOUT_S, output=self._reason()))

    def check(self) -> None:
        """Raise EmbeddedError, with the worker's own reason, if it has ended."""
        if self._worker is not None and not self._worker.is_running:
            msg = _("the worker has stopped: {output}").format(output=self._reason())
            raise EmbeddedError(msg)

    def stop(self) -> None:
        """Stop the worker; harmless when done twice."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _learn(self, info: WorkerInfo) -> None:
        self.info = info

    def _export(self, model: str) -> str:
        """Return the artifact that `worker export` makes of a model, or has made before."""
        argv = [*WORKER, "export", "--model", model]
        env = worker_environment(self._url, model)
        with ManagedProcess(argv, grace_s=STOP_GRACE_S, env=env, separate_output=True) as export:
            for line in export.follow():
                if not is_error(line):
                    self._echo(line.strip())
            place = export.output()
            if export.returncode:
                raise EmbeddedError(without_prefix(export.last_line()))
        return place.decode().strip()

    @property
    def _url(self) -> str:
        return broker_url_of(self._app).reveal()

    def _reason(self) -> str:
        if self._worker is None:
            return ""
        return without_prefix(self._worker.last_line(_("the worker stopped and printed nothing")))


class Answer:
    """Whether a worker answers at the broker; says now and then that none does yet.

    A question that is asked before anybody listens is waited for in vain.
    """

    def __init__(
        self,
        app: Celery,
        client: Any,
        echo: Callable[[str], object],
        on_answer: Callable[[WorkerInfo], object],
    ) -> None:
        self._app = app
        self._echo = echo
        self._on_answer = on_answer
        self._client = client
        self._began_s = self._said_s = time.monotonic()

    def __call__(self) -> bool:
        """Return whether a worker has answered.

        Raises:
            BrokerUnreachableError: the broker is away.
        """
        if self._is_heard() and (answers := online(self._app, _ASK_S, limit=1)):
            self._on_answer(answers[0])
            return True
        now_s = time.monotonic()
        if now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            message = _("the worker is still loading its model, after {seconds:.0f} s")
            self._echo(message.format(seconds=now_s - self._began_s))
        return False

    def _is_heard(self) -> bool:
        """Whether anybody listens at this Redis, where nobody but our worker does."""
        try:
            return bool(self._client.pubsub_numpat())
        except redis.RedisError:
            # Whoever asks finds out what is wrong.
            return True
