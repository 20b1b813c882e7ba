"""The documents: their shell blocks, commands, inline code and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
from conftest import ROOT
from verbs import verbs_of

import producer.cli
import worker.cli

DOCS = ROOT / "ops" / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CHANGELOG.md", "ops/README.md")),
    *sorted(DOCS.glob("*.md")),
]
GROUPS: dict[str, click.Group] = {"producer": producer.cli.main, "worker": worker.cli.main}

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_REDIRECTION = re.compile(r"\s*(?:\d?>&\d|\d?>>?\s*\S+|<\s*\S+)")
_VARIABLE = re.compile(r"[A-Z_]+=")


def name_of(page: Path) -> str:
    """Return what a test calls a page."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    text = page.read_text(encoding="utf-8")
    return [body for found, body in _BLOCK.findall(text) if found == language]


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[str]:
    """Return what stands between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def lines(page: Path) -> list[str]:
    """Return the lines of all shell blocks as they are typed, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", "")
    found = (re.sub(r"(^|\s+)#.*", "", line) for line in text.splitlines())
    return [line for line in found if line]


def commands(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each command of a line, without variables and redirections."""
    lexer = shlex.shlex(_REDIRECTION.sub("", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] = []
    for token in [*lexer, ";"]:
        if token.strip(";&|"):
            found.append(token)
            continue
        while found and (found[0] == "export" or _VARIABLE.match(found[0])):
            found.pop(0)
        if found:
            yield found
        found = []


@cache
def verbs(program: str) -> dict[str, click.Command]:
    """Return the verbs of `producer` or `worker`."""
    return verbs_of(GROUPS[program])


@cache
def help_of(program: str, verb: str) -> str:
    """Return what a verb says of itself, in long lines."""
    context = click.Context(verbs(program)[verb], info_name=verb, terminal_width=500)
    return verbs(program)[verb].get_help(context)


@cache
def options_of(program: str, verb: str) -> set[str]:
    """Return the long options that the help of a verb shows."""
    return set(re.findall(r"--[a-z][a-z-]*", help_of(program, verb)))
