"""How a program of the worker's is started from here, which itself loads none of its libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from worker import contract
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.i18n import language_in_use

# Where the program lies. -P keeps what lies in the directory of the user from taking its place.
_HOME: Final = Path(contract.__file__).parents[2]
WORKER: Final = (sys.executable, "-P", "-m", "worker.cli")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of such a program: ours, the way to its modules, and its settings.

    It speaks our language, if a locale allows it one.
    """
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(_HOME), given] if given else [str(_HOME)])
    return {**os.environ, "PYTHONPATH": path, "LANGUAGE": language_in_use(), **settings}


def error_in(line: str) -> str | None:
    """Return what went wrong, of a line in which such a program says so; None of another line."""
    for form in (N_("error: {message}"), N_("Error: {message}")):
        prefix = _(form).format(message="")
        if line.startswith(prefix):
            return line.removeprefix(prefix)
    return None
