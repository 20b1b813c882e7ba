"""How a program of the worker's is started from here, which itself loads none of its libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from worker import contract

# Where the program lies. -P keeps what lies in the directory of the user from taking its place.
_HOME: Final = Path(contract.__file__).parents[2]
WORKER: Final = (sys.executable, "-P", "-m", "worker.cli")
# How it begins its last words.
ERROR: Final = "error: "


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of such a program: ours, the way to its modules, and its settings."""
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(_HOME), given] if given else [str(_HOME)])
    return {**os.environ, "PYTHONPATH": path, **settings}
