"""Labels -> their embeddings, by a worker or a child process that loads the model's text tower."""

from __future__ import annotations

import base64
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple, Self

import msgspec
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from producer.backend.subprocesses import WORKER, environment, without_prefix
from producer.errors import EncodingError
from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack
from worker.contract.local.subprocesses import ManagedProcess
from worker.contract.queue.url_numbers import broker_url_of
from worker.contract.redis.connections import connect
from worker.contract.text_embeddings import ENCODE, Encoded

_STOP_GRACE_S: Final = 5.0
_ANSWER_S: Final = 1.0


class Embedded(NamedTuple):
    """What the model says of a label pack; `matrix` are KD, JD and JK, float32, row by row."""

    encoded: Encoded
    matrix: bytes


class Encoding:
    """Begins on entering the block, so that other work can be done until `result` is asked for."""

    def __init__(self, pack: LabelPack, model: str | None) -> None:
        """Take a pack, and an artifact's place; without one, it is that of WANWU_MODEL."""
        self._pack = pack
        self._argv = [*WORKER, "texts", *(["--model", model] if model else [])]
        self._child: ManagedProcess

    def __enter__(self) -> Self:
        if missing("worker"):
            msg = _("labels are embedded by the model, which needs: {install}").format(
                install=remedy("worker")
            )
            raise EncodingError(msg)
        # A file, since a pipe would hold us up until the child has loaded what it reads with.
        with tempfile.TemporaryFile() as pack:
            pack.write(msgspec.json.encode(self._pack))
            pack.seek(0)
            self._child = ManagedProcess(
                self._argv,
                grace_s=_STOP_GRACE_S,
                env=environment({}),
                stdin=pack,
                separate_output=True,
            )
            self._child.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._child.stop()

    def result(self) -> Embedded:
        """Return what the child says, as soon as it does.

        Raises:
            EncodingError: with the child's own reason.
        """
        output = self._child.output()
        if self._child.returncode:
            reason = self._child.last_line(_("it ended and printed nothing"))
            raise EncodingError(without_prefix(reason))
        head, matrix = output.split(b"\n", maxsplit=1)
        return Embedded(msgspec.json.decode(head, type=Encoded), matrix)


class Asked:
    """Like `Encoding`, for a few texts: a worker that is online has all loaded already."""

    def __init__(self, pack: LabelPack, model: str | None, app: Celery) -> None:
        self._pack = pack
        self._model = model
        self._app = app
        self._asking = ThreadPoolExecutor(1)
        self._answer: Future[Embedded | None]

    def __enter__(self) -> Self:
        self._answer = self._asking.submit(self._ask)
        return self

    def __exit__(self, *_error: object) -> None:
        self._asking.shutdown(wait=False)

    def result(self) -> Embedded:
        """Return what a worker says or, if none does, what a child process says.

        Raises:
            EncodingError: as `Encoding.result`.
        """
        if found := self._answer.result():
            return found
        with Encoding(self._pack, self._model) as encoding:
            return encoding.result()

    def _ask(self) -> Embedded | None:
        inspect = self._app.control.inspect(timeout=_ANSWER_S, limit=1)
        try:
            # Celery would try again and again to reach a Redis that is not there.
            connect(broker_url_of(self._app), timeout_s=_ANSWER_S).close()
            answers = inspect._request(ENCODE, pack=msgspec.to_builtins(self._pack)) or {}  # noqa: SLF001 - Celery's way to own commands
            (answer,) = answers.values()
            encoded = msgspec.convert(answer["encoded"], Encoded)
            return Embedded(encoded, base64.b64decode(answer["matrix"]))
        except (OperationalError, redis.RedisError, OSError, LookupError, ValueError, TypeError):
            # Away, of another version, or without an answer: it can be done without.
            return None
