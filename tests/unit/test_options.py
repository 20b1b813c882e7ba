"""worker.contract.options: sections, old spellings, and rules of use."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result
from verbs import verbs_of

from producer.cli import main as producer
from worker.cli import main as worker
from worker.contract.options import Command, Option, Rule

RULES = (
    Rule("flower", "--flower needs --embedded", needs=("embedded",)),
    Rule("embedded", "--embedded excludes --broker", excludes=("broker",)),
)


@click.command(cls=Command, rules=RULES)
@click.option("--embedded", cls=Option, section="Workers", is_flag=True, help="One of its own.")
@click.option("--flower", cls=Option, section="Workers", is_flag=True, help="Beside it.")
@click.option("--broker", cls=Option, old=["--redis"], metavar="URL", help="Where it is.")
@click.argument("path")
def command(**given: object) -> None:
    click.echo(str(given["broker"]))


def call(*argv: str) -> Result:
    return CliRunner().invoke(command, argv)


def test_an_old_spelling_works_and_is_shown_nowhere() -> None:
    assert call("x", "--redis", "r").output == call("x", "--broker", "r").output == "r\n"
    assert "--redis" not in call("--help").output
    suggested = call("x", "--brok", "r").output
    assert "--broker" in suggested
    assert "--redis" not in suggested


def test_options_stand_in_their_sections_and_arguments_in_none() -> None:
    lines = [line.strip() for line in call("--help").output.splitlines()]
    workers, others = lines.index("Workers:"), lines.index("Options:")
    assert workers < lines.index("--flower    Beside it.") < others
    assert others < lines.index("--broker URL  Where it is.")
    assert not any(line.startswith("PATH") for line in lines)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x", "--flower"], "--flower needs --embedded"),
        (["x", "--embedded", "--broker", "r"], "--embedded excludes --broker"),
        (["x", "--embedded", "--flower"], None),
        (["x", "--broker", "r"], None),
    ],
)
def test_a_broken_rule_is_wrong_usage(argv: list[str], message: str | None) -> None:
    done = call(*argv)
    assert done.exit_code == (2 if message else 0)
    assert message is None or f"Error: {message}" in done.stderr


@pytest.mark.parametrize("program", [producer, worker])
def test_every_rule_speaks_of_options_that_there_are(program: click.Group) -> None:
    for verb in verbs_of(program).values():
        names = {parameter.name for parameter in verb.params}
        for rule in getattr(verb, "rules", ()):
            assert {rule.option, *rule.needs, *rule.excludes} <= names, (verb.name, rule)


@pytest.mark.parametrize(
    ("program", "verb", "old"),
    [
        (producer, "submit", "--chunk"),
        (producer, "submit", "--http"),
        (producer, "watch", "--settle"),
        (worker, "start", "--images"),
    ],
)
def test_the_spellings_of_before_are_known(program: click.Group, verb: str, old: str) -> None:
    parameters = verbs_of(program)[verb].params
    assert any(old in getattr(parameter, "old", ()) for parameter in parameters)


@pytest.mark.parametrize("program", [producer, worker])
def test_an_option_that_may_be_repeated_says_so(program: click.Group) -> None:
    for name, verb in verbs_of(program).items():
        for one in verb.params:
            if isinstance(one, click.Option) and one.multiple:
                assert "may be repeated" in (one.help or ""), (name, one.name)
