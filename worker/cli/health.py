"""The verb `worker health`: asks a worker on this machine over HTTP."""

from __future__ import annotations

import click

from worker.cli.verbs import exits_with_code, fail, verb
from worker.contract.i18n import gettext as _
from worker.contract.settings import Settings


@verb("worker health")
@exits_with_code
def health() -> int:
    """Ask the worker at WANWU_MONITOR_PORT whether it is healthy; exit 0 if so, else 1."""
    from worker.monitoring.http import ask

    if problem := ask(Settings.from_env()):
        fail(problem)
    click.echo(_("healthy"))
    return 0
