"""How a program of the worker's is started from here, which itself loads none of its libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from worker import contract
from worker.contract.i18n import gettext as _
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


def is_error(line: str) -> bool:
    """Whether a line of such a program is why it ends."""
    return line.startswith(_prefixes())


def without_prefix(line: str) -> str:
    """Return why such a program has ended: its last line, without what marks an error."""
    return next((line.removeprefix(one) for one in _prefixes() if line.startswith(one)), line)


def _prefixes() -> tuple[str, ...]:
    # It speaks our language; usage errors are click's.
    forms = (_("error: {message}"), _("Error: {message}"), "error: ", "Error: ")
    return tuple(form.format(message="") for form in forms)
