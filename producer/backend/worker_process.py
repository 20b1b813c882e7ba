"""The process of a worker of our own: how it is started, and what it is given."""

from __future__ import annotations

import os
from typing import Final

from producer.backend.subprocesses import WORKER, environment
from worker.contract.local.subprocesses import ManagedProcess
from worker.contract.settings import Settings, expanded

STOP_GRACE_S: Final = 5.0
# What an artifact holds; the worker knows the rest.
_MANIFEST: Final = "manifest.json"
# Everything: whoever runs the command may name any file that they can read.
_ROOTS: Final = os.sep
_URLS: Final = "*"


def is_artifact(model: str | None) -> bool:
    """Whether a worker can load a model as it is: the bundled one, or one that was exported."""
    return not model or (expanded(model) / _MANIFEST).exists()


def worker_process(url: str, model: str | None) -> ManagedProcess:
    """Return the process of a worker at the Redis of a URL; it is not started yet."""
    argv = [*WORKER, "start"]
    return ManagedProcess(argv, grace_s=STOP_GRACE_S, env=worker_environment(url, model))


def worker_environment(url: str, model: str | None) -> dict[str, str]:
    """Return the environment of such a worker, or of what exports its model."""
    settings = {
        "WANWU_BROKER_URL": url,
        "WANWU_RESULT_URL": "",
        "WANWU_PREFIX": "",
        "WANWU_IMAGE_ROOTS": _ROOTS,
        # Hosts in private networks are to be named.
        "WANWU_IMAGE_URLS": ",".join((_URLS, *Settings.from_env().image_urls)),
    }
    if model:
        settings["WANWU_MODEL"] = str(expanded(model).resolve())
    return environment(settings)
