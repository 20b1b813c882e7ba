"""Lists of verbs, help and completions load no more than they show."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import click.testing
import pytest
from conftest import ROOT
from verbs import verbs_of

from producer.cli import main as producer
from worker.cli import main as worker
from worker.contract.commands import LazyCommand, joined
from worker.contract.i18n import ENGLISH, in_language

LIBRARIES = {"asyncio", "celery", "kombu", "numpy", "redis", "rich", "structlog", "torch"}
# What a verb's own options may need.
OF_VERBS = {"msgspec", "producer.errors", "producer.formats", "worker.contract.settings"}
PROGRAM = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from {module} import main
main(prog_name="producer")
"""


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with in_language(ENGLISH):
        yield


def modules_after(module: str, *argv: str, **environment: str) -> set[str]:
    """Return what a program has loaded when it has ended."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module), *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"], ["sbmit"]])
@pytest.mark.parametrize("module", ["producer.cli", "worker.cli"])
def test_what_concerns_no_verb_loads_none(module: str, argv: list[str]) -> None:
    assert not modules_after(module, *argv) & (LIBRARIES | OF_VERBS)


def test_completing_a_verb_loads_none() -> None:
    asked = {"_PRODUCER_COMPLETE": "bash_complete", "COMP_WORDS": "producer s", "COMP_CWORD": "1"}
    loaded = modules_after("producer.cli", **asked)
    assert "click.shell_completion" in loaded
    assert not loaded & (LIBRARIES | OF_VERBS)


@pytest.mark.parametrize("argv", [["submit", "--help"], ["submit"], ["status", "--jsn"]])
def test_help_of_a_verb_and_wrong_usage_load_no_library(argv: list[str]) -> None:
    assert not modules_after("producer.cli", *argv) & LIBRARIES


@pytest.mark.parametrize("argv", [["--help"], ["start", "--help"], ["strat"]])
def test_help_of_the_worker_loads_no_library(argv: list[str]) -> None:
    assert not modules_after("worker.cli", *argv) & LIBRARIES


@pytest.mark.parametrize(
    ("program", "name"),
    [(program, name) for program in (producer, worker) for name in sorted(program.commands)],
)
def test_lists_show_what_the_help_of_a_verb_begins_with(program: click.Group, name: str) -> None:
    shown = program.commands[name]
    assert isinstance(shown, LazyCommand)
    verb = verbs_of(program)[name]
    assert verb.name == name
    assert shown.help == joined(verb.help or "").partition("\n\n")[0]


def test_a_verb_is_run_as_if_it_had_been_there(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command
    @click.argument("word")
    def say(word: str) -> None:
        click.echo(f"said {word}")

    module = type(sys)("a_module_of_a_verb")
    module.say = say  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    group = click.Group("program", commands=[LazyCommand("say", module.__name__, "Say a word.")])
    runner = click.testing.CliRunner()
    assert "Say a word." in runner.invoke(group, ["--help"]).output
    assert runner.invoke(group, ["say", "it"]).output == "said it\n"
    assert "Missing argument" in runner.invoke(group, ["say"]).output
