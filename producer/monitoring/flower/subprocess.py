"""Flower, for the life of a command: beside the private Redis and worker of `--embedded`."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from worker import contract
from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.local.redis_server import EmbeddedError
from worker.contract.local.subprocesses import ManagedProcess

HOST: Final = "127.0.0.1"
PORT: Final = 5555
START_TIMEOUT_S: Final = 60.0
STOP_GRACE_S: Final = 5.0
_USER: Final = "flower"
_ASK_S: Final = 0.1
# -P keeps what lies in the directory of the user from taking a program's place.
_FLOWER: Final = (sys.executable, "-P", "-m", "celery", "flower")
_CONFIG: Final = Path(__file__).with_name("config.py")
_HOME: Final = Path(contract.__file__).parents[2]


@contextmanager
def flower_beside(broker_url: str, echo: Callable[[str], None]) -> Iterator[int]:
    """Run Flower at a broker inside the `with` block; yield its port, once it answers.

    It listens on this machine alone, at 5555 or another port that is free, with a password of its
    own, which `echo` is called with.

    Raises:
        EmbeddedError: it is not installed or does not come up.
    """
    if missing("ops"):
        msg = _("--flower needs: {install}").format(install=remedy("ops"))
        raise EmbeddedError(msg)
    port, password = _free_port(), secrets.token_urlsafe(12)
    variables = {
        "BROKER_URL": broker_url,
        "WANWU_BROKER_URL": broker_url,
        "WANWU_PREFIX": "",
        "FLOWER_ADDRESS": HOST,
        "FLOWER_PORT": str(port),
        "FLOWER_BASIC_AUTH": f"{_USER}:{password}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_HOME), os.environ.get("PYTHONPATH")])),
    }
    argv = [*_FLOWER, f"--conf={_CONFIG}"]
    with ManagedProcess(argv, grace_s=STOP_GRACE_S, env=os.environ | variables) as flower:
        if not flower.wait_until(lambda: _answers(port), START_TIMEOUT_S, _ASK_S):
            output = flower.last_line(_("it printed nothing"))
            raise EmbeddedError(_("Flower did not start: {output}").format(output=output))
        message = _("Flower: http://{host}:{port}/throughput, user {user}, password {password}")
        echo(message.format(host=HOST, port=port, user=_USER, password=password))
        yield port


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    """Return Flower's usual port or, if somebody has it, any."""
    for wanted in (PORT, 0):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, wanted))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port
    msg = _("there is no free port for Flower")
    raise EmbeddedError(msg)
