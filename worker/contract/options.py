"""Click options in sections of the help, with old spellings that are hidden, and rules of use.

This is click's own means: cloup does the same, but takes a tenth of a second to load with each
command, and speaks English.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import click

from worker.contract.i18n import gettext as _

_NOT_GIVEN: Final = (None, False, ())


class Rule(NamedTuple):
    """What must be given with an option, or must not; `message` is in English."""

    option: str
    message: str
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    def is_broken(self, values: Mapping[str, Any]) -> bool:
        """Whether the option is given without any that it needs, or with one that it excludes."""

        def given(name: str) -> bool:
            return values[name] not in _NOT_GIVEN

        if not given(self.option):
            return False
        lacks = bool(self.needs) and not any(map(given, self.needs))
        return lacks or any(map(given, self.excludes))


class Option(click.Option):
    """An option that stands in a section; its `old` spellings work, and are shown nowhere."""

    def __init__(
        self, *args: Any, section: str = "", old: Sequence[str] = (), **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.section = section
        self.old = tuple(old)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser know the old spellings too."""
        shown = self.opts
        self.opts = [*shown, *self.old]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


class Command(click.Command):
    """A verb whose help shows options in their sections, and whose options follow rules."""

    def __init__(self, *args: Any, rules: Sequence[Rule] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.rules = tuple(rules)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, and hold the rules.

        Raises:
            click.UsageError: one is broken.
        """
        rest = super().parse_args(ctx, args)
        for rule in () if ctx.resilient_parsing else self.rules:
            if rule.is_broken(ctx.params):
                raise click.UsageError(_(rule.message), ctx)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section; those of none come last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            is_option = isinstance(parameter, click.Option)
            if is_option and (record := parameter.get_help_record(ctx)):
                sections.setdefault(getattr(parameter, "section", ""), []).append(record)
        others = sections.pop("", [])
        for title, records in [*sections.items(), ("Options", others)]:
            if records:
                with formatter.section(_(title)):
                    formatter.write_dl(records)
