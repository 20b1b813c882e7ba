"""Groups of click commands whose help, and click's own messages, are in the user's language."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from types import TracebackType
from typing import Any, Final, TypeVar

import click

from worker.contract.i18n import gettext, use_language, user_language
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.printable import PrintableFormatter, printable_lines

F = TypeVar("F", bound=Callable[..., Any])

# What click translates, and does not mark: of options that must be given.
_REQUIRED: Final = N_("required")
_FULL_STOP: Final = "。"
# No line begins with one of the first, or ends with one of the second.
_CLOSING: Final = "，。、；：？！）》」』】”’"
_OPENING: Final = "（《「『【“‘"
# Stands for the second column of a wide character where no line may be broken.
_FILLER: Final = "\0"


def version_option(command: F) -> F:
    """Add `--version` to a command, in the user's language: click's own is fixed at import."""

    def show(context: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's
        if value and not context.resilient_parsing:
            # Only now: it loads much, for one line.
            from importlib.metadata import version  # noqa: PLC0415

            names = {"prog": context.find_root().info_name, "version": version("wanwu-tagger")}
            click.echo(_("%(prog)s, version %(version)s") % names)
            context.exit()

    return click.option(
        "--version",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="Show the version and exit.",
    )(command)


class HelpFormatter(click.HelpFormatter):
    """click's help, in which a Chinese character takes two columns, and a line may end after it.

    click counts characters, and breaks lines at blanks, of which Chinese has none. Here it sees a
    blank after each wide character, which is taken out at the end.
    """

    def __init__(
        self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None
    ) -> None:
        super().__init__(indent_increment, width, max_width)
        # The blank at the end of a line is not counted, but the character takes its column.
        self.width -= 1

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line that shows how a command is used."""
        super().write_usage(prog, args, _widened(f"{prefix or _('Usage:')} "))

    def write_heading(self, heading: str) -> None:
        """Write what stands above options or verbs."""
        self.write(_("{heading}:").format(heading=heading) + "\n")

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        super().write_text(_widened(text))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write options or verbs, each with its help."""
        wide = [(_widened(first), _widened(second)) for first, second in rows]
        super().write_dl(wide, col_max, col_spacing)

    def getvalue(self) -> str:
        """Return all that was written."""
        text = super().getvalue().replace(_FILLER, "")
        return re.sub(r"(.) ", lambda found: found[1] if _is_wide(found[1]) else found[0], text)


class _Context(click.Context):
    formatter_class = HelpFormatter


class TranslatedGroup(click.Group):
    """A group that speaks the user's language from the moment in which it is run.

    Help texts are written in English where an option or a verb is declared; they need no mark, as
    `help_messages` finds them all.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, as click does."""
        use_language(user_language())
        translate_help(self)
        sys.excepthook = _show_traceback
        # Of what no program has asked to see: warnings of libraries, and of ours.
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(PrintableFormatter())
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; a sentence that ends it may repeat the name of a file."""
        try:
            return super().invoke(ctx)
        except click.ClickException as e:
            vars(e).update(message=printable_lines(e.message))
            raise


class LazyCommand(click.Command):
    """Stands for a verb in lists and completions; the verb is loaded when it is used.

    `summary` is the first paragraph of the verb's help.
    """

    def __init__(self, name: str, module: str, summary: str) -> None:
        """Take the name, by which the module knows the verb as well."""
        super().__init__(name, help=summary)
        self._module = module

    def load(self) -> click.Command:
        """Return the verb itself, in the language of the user."""
        verb: click.Command = getattr(import_module(self._module), self.name or "")
        translate_help(verb)
        return verb

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Return the context of the verb itself, with which click goes on."""
        return self.load().make_context(*args, **kwargs)


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show what nobody foresaw, as Python does; what it says may be a stranger's words."""
    lines = "".join(traceback.format_exception(kind, error, trace))
    click.echo(printable_lines(lines), err=True, nl=False)


def help_messages(command: click.Command) -> Iterator[str]:
    """Yield the help texts of a command, of its options and of its verbs, in English."""
    if isinstance(command, LazyCommand):
        yield from help_messages(command.load())
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
    command.context_class = _Context
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


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _widened(text: str) -> str:
    """Return a text with a blank, or a filler, after each wide character."""
    following = [*text[1:], ""]
    return "".join(
        character + _after(character, after) if _is_wide(character) else character
        for character, after in zip(text, following, strict=True)
    )


def _after(character: str, following: str) -> str:
    may_break = character not in _OPENING and (not following or following not in _CLOSING)
    return " " if may_break else _FILLER
