"""What all verbs share: how one is declared, and how its options become one typed struct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import click
import msgspec

from worker.contract import options as ours
from worker.contract.options import Option, Rule

S = TypeVar("S", bound=msgspec.Struct)
# A function that is on its way to become a verb.
Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def verb(example: str, *, rules: Sequence[Rule] = ()) -> Callable[[Command], ours.Command]:
    """Return what makes a function a verb; the help ends with its example."""
    return click.command(cls=ours.Command, epilog=f"Example: {example}", rules=rules)


def option(*names: str, **attributes: Any) -> Decorator:
    """Return what adds an option; see `worker.contract.options.Option`."""
    return click.option(*names, cls=Option, **attributes)


def takes(kind: type[S]) -> Callable[[Callable[[S], int]], Callable[..., int]]:
    """Return what lets click's arguments come as one struct, whose fields mypy knows."""

    def decorate(command: Callable[[S], int]) -> Callable[..., int]:
        @wraps(command)
        def call(**given: Any) -> int:
            return command(kind(**given))

        return call

    return decorate
