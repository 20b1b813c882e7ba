"""What a worker with decode processes may use."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from worker.images.isolated.limits import allow_handles


def test_more_handles_than_a_shell_allows_are_asked_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 512
    if hard != resource.RLIM_INFINITY and hard <= few:
        pytest.skip("this system allows no more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        allow_handles()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > few
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_libraries_write_is_dropped_and_what_python_writes_is_not() -> None:
    script = (
        "import os, sys; from worker.images.isolated.limits import silence_libraries as silence;"
        "silence(); os.write(2, b'a row is damaged'); print('ours', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stderr == b"ours\n"
