"""A worker process of our own, for the life of a command."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Final, Self

from celery import Celery

from producer.backend.subprocesses import ERROR, WORKER, environment
from producer.backend.workers import WorkerInfo, online
from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.local.redis_server import EmbeddedError
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.settings import expanded

START_TIMEOUT_S: Final = 120.0
STOP_GRACE_S: Final = 5.0
SAY_EVERY_S: Final = 10.0
_ASK_S: Final = 0.5
# What an artifact holds; the worker knows the rest.
_MANIFEST: Final = "manifest.json"
# Everything: whoever runs the command may name any file that they can read.
_ROOTS: Final = os.sep
_URLS: Final = "*"


def check_libraries() -> None:
    """Make sure that a worker can run here.

    Raises:
        EmbeddedError: with what to install.
    """
    if missing("worker"):
        msg = _("--embedded runs a worker, which needs: {install}").format(
            install=remedy("worker", "embedded")
        )
        raise EmbeddedError(msg)


class LocalWorker:
    """Inside the `with` block a worker is online at the broker; afterwards it is gone.

    A model that is no artifact yet is exported first; `say` hears how that goes.

    Raises:
        EmbeddedError: on entering, with the worker's own words, if it does not come up.
    """

    def __init__(self, app: Celery, model: str | None, echo: Callable[[str], None]) -> None:
        self._app = app
        self._model = model
        self._echo = echo
        self._child: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.info: WorkerInfo

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the worker and return once its model is warm."""
        if self._model and not (expanded(self._model) / _MANIFEST).exists():
            self._model = self._export(self._model)
        self._echo(_("starting a worker, which loads its model"))
        # Without a name on disk: it goes when both processes have.
        self._log = tempfile.TemporaryFile(prefix="wanwu-worker-")  # noqa: SIM115 - closed in stop
        self._child = start_child(
            [*WORKER, "start"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._await(self._child)

    def _await(self, child: subprocess.Popen[bytes]) -> None:
        began_s = said_s = time.monotonic()
        while (now_s := time.monotonic()) - began_s < START_TIMEOUT_S:
            if child.poll() is not None:
                raise EmbeddedError(self._last_words())
            if answers := online(self._app, _ASK_S, limit=1):
                self.info = answers[0]
                return
            if now_s - said_s >= SAY_EVERY_S:
                said_s = now_s
                self._echo(
                    _("the worker is still loading its model, after {seconds:.0f} s").format(
                        seconds=now_s - began_s
                    )
                )
        msg = _("the worker did not start within {seconds:.0f} s: {output}").format(
            seconds=START_TIMEOUT_S, output=self._last_words()
        )
        raise EmbeddedError(msg)

    def check(self) -> None:
        """Raise EmbeddedError, with the worker's last words, if it has ended."""
        if self._child is not None and self._child.poll() is not None:
            msg = _("the worker has stopped: {output}").format(output=self._last_words())
            raise EmbeddedError(msg)

    def stop(self) -> None:
        """Stop the worker; harmless when done twice."""
        if self._child is not None:
            stop_child(self._child, STOP_GRACE_S)
            self._child = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _export(self, model: str) -> str:
        """Return the artifact that `worker export` makes of a model, or has made before."""
        self._child = start_child(
            [*WORKER, "export", "--model", model],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        told = ""
        for line in self._child.stderr or ():
            told = line.decode(errors="replace").strip()
            if not told.startswith(ERROR):
                self._echo(told)
        place, _ = self._child.communicate()
        if self._child.returncode:
            raise EmbeddedError(told.removeprefix(ERROR))
        return place.decode().strip()

    def _environment(self) -> dict[str, str]:
        settings = {
            "WANWU_BROKER_URL": self._app.conf.broker_url,
            "WANWU_RESULT_URL": "",
            "WANWU_IMAGE_ROOTS": _ROOTS,
            "WANWU_IMAGE_URLS": _URLS,
        }
        if self._model:
            settings["WANWU_MODEL"] = str(expanded(self._model).resolve())
        return environment(settings)

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return (
            lines[-1].removeprefix(ERROR) if lines else _("the worker stopped and printed nothing")
        )
