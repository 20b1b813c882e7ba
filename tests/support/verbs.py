"""The verbs of a program, loaded."""

from __future__ import annotations

import click

from worker.contract.commands import LazyCommand


def verbs_of(program: click.Group) -> dict[str, click.Command]:
    """Return each verb by its name, for looks at its parameters."""
    return {name: _loaded(verb) for name, verb in program.commands.items()}


def _loaded(verb: click.Command) -> click.Command:
    return verb.load() if isinstance(verb, LazyCommand) else verb
