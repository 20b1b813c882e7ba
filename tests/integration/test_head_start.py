"""A private Redis and its worker that are started before whoever needs them is ready."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from conftest import ROOT, SMALL_MODEL

from producer.backend import head_start
from producer.backend.head_start import Begun, HeadStart, redis_and_worker
from worker.contract.local import redis_server

HEAVY = {"celery", "kombu", "redis", "rich", "structlog", "torch"}


def begun() -> Begun:
    """Return what was started, and leave it there."""
    assert head_start._begun is not None
    return head_start._begun


def is_alive(pid: int | None) -> bool:
    return pid is not None and psutil.pid_exists(pid)


def test_what_was_begun_is_taken_over() -> None:
    with HeadStart(None):
        early = begun()
        pid = early.worker.pid
        with redis_and_worker(None) as (server, worker):
            assert server.url == early.url
            assert worker is early.worker
            assert is_alive(pid)
        assert not is_alive(pid)
        assert head_start._begun is None


def test_what_nobody_takes_is_gone_at_the_end() -> None:
    with HeadStart(None):
        early = begun()
        pid, directory = early.worker.pid, early.server._directory
        assert is_alive(pid)
        assert directory
        assert directory.exists()
    assert not is_alive(pid)
    assert not directory.exists()


def interrupted_in_a_head_start(echo: Callable[[str], object]) -> None:
    with HeadStart(None, echo):
        raise KeyboardInterrupt


def test_an_interruption_before_it_is_taken_is_told() -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_in_a_head_start(said.append)
    assert said == ["interrupted before any work began"]
    assert head_start._begun is None


def test_of_another_model_nothing_is_taken() -> None:
    with HeadStart(None):
        early = begun()
        with redis_and_worker(str(SMALL_MODEL)) as (server, _worker):
            assert server.url != early.url
        assert is_alive(early.worker.pid)


def test_a_worker_whose_port_another_program_has_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        ports = iter([thief.getsockname()[1]])
        chosen = redis_server._free_port
        monkeypatch.setattr(redis_server, "_free_port", lambda: next(ports, None) or chosen())
        with HeadStart(None):
            early = begun()
            pid = early.worker.pid
            with redis_and_worker(None) as (server, worker):
                assert worker is None
                assert urlsplit(server.url).port != thief.getsockname()[1]
                assert not is_alive(pid)


def test_a_model_that_is_to_be_exported_first_has_no_head_start(tmp_path: Path) -> None:
    with HeadStart(str(tmp_path)):
        assert head_start._begun is None


def test_it_loads_no_library() -> None:
    program = f"import sys, producer.backend.head_start; print({HEAVY!r} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
