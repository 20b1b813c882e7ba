"""Groups of click commands whose help, and click's own messages, are in the user's language."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click

from worker.contract.i18n import gettext, use_language, user_language

_FULL_STOP = "。"


class TranslatedGroup(click.Group):
    """A group that speaks the user's language from the moment in which it is run.

    Help texts are written in English where an option or a verb is declared; they need no mark, as
    `help_messages` finds them all.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, as click does."""
        use_language(user_language())
        translate_help(self)
        return super().main(*args, **kwargs)


def help_messages(command: click.Command) -> Iterator[str]:
    """Yield the help texts of a command, of its options and of its verbs, in English."""
    for text in (command.help, command.epilog):
        if text:
            yield joined(text)
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            yield joined(option.help)
    if isinstance(command, click.Group):
        for verb in command.commands.values():
            yield from help_messages(verb)


def translate_help(command: click.Command) -> None:
    """Translate the help texts of a command, of its options and of its verbs."""
    if command.help:
        text = gettext(joined(command.help))
        if _FULL_STOP in text:
            # click finds no words to cut a Chinese sentence at.
            command.short_help = text.partition(_FULL_STOP)[0]
        command.help = text
    if command.epilog:
        command.epilog = gettext(joined(command.epilog))
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            option.help = gettext(joined(option.help))
    if isinstance(command, click.Group):
        for verb in command.commands.values():
            translate_help(verb)


def joined(text: str) -> str:
    """Return a help text with each paragraph on one line, as it stands in the catalogue."""
    paragraphs = inspect.cleandoc(text).partition("\f")[0].split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
