"""What the documents say exists: commands, options, files, links, tests, settings, metrics."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import documents
import msgspec
import pytest
from conftest import PATIENCE_S, ROOT
from documents import DOCS, PAGES, commands, help_of, inline, lines, name_of, options_of, verbs

from worker import errors
from worker.artifact.manifest import open_artifact
from worker.contract.i18n import gettext as _
from worker.contract.i18n import in_language
from worker.contract.messages import Record, Timing
from worker.contract.settings import Settings

README, CHINESE, CHANGELOG = (ROOT / name for name in ("README.md", "README.zh.md", "CHANGELOG.md"))
SETTINGS = {f"WANWU_{name.upper()}" for name in Settings.__struct_fields__}
# Programs of others; their arguments are not ours to check.
FOREIGN = {
    ".",
    "apt-get",
    "celery",
    "cp",
    "curl",
    "docker",
    "find",
    "kill",
    "pip",
    "redis-cli",
    "redis-server",
}
FOREIGN_OPTIONS = {"--profile", "--enable_events", "--volumes", "--scale"}
# Names that nobody would search for. (`in flight` is a term.)
RETIRED = (
    r"desk|door|lanes?|ledger|shelf|told|hitch|parcel|(?<!in[ -])flights?|rooms?|quarantine|"
    r"keepsake|insist|outbox|rehearsal|bury|buried|heir|arrivals|departures"
)
PATH = re.compile(r"(?:producer|worker|tests|ops)(?:/[\w.-]+)+/?")

pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_readme_and_changelog_are_short() -> None:
    for page, most in ((README, 150), (CHINESE, 150), (CHANGELOG, 60)):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= most, page


@pytest.mark.parametrize(("language", "page"), [("en", README), ("zh", CHINESE)])
def test_the_notice_of_the_bundled_model_names_a_heading_that_is_there(
    language: str, page: Path
) -> None:
    notice = open_artifact().manifest.notice
    assert notice
    with in_language(language):
        quoted = re.search('["“](.+)["”]', _(notice))
    assert quoted
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert any(quoted[1] in heading for heading in headings)


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", documents.prose(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", documents.prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pages
def test_every_file_that_is_named_exists(page: Path) -> None:
    for code in inline(page):
        for path in PATH.findall(code):
            assert (ROOT / path).exists(), path


@pages
def test_every_command_is_one_that_runs(page: Path) -> None:
    for line in lines(page):
        for command in commands(line):
            check(command)


def check(command: list[str]) -> None:
    """Make sure that a command of a shell block can be typed."""
    program, *rest = command
    if command[:2] == ["docker", "compose"] and "run" in rest:
        program, *rest = rest[rest.index("--rm") + 1 :]
    if program in documents.GROUPS:
        parse(program, rest)
    elif program == "python":
        check_program(rest)
    elif program not in FOREIGN:
        assert os.access(ROOT / program, os.X_OK), program
        if program.startswith("ops/bench/"):
            check_program([program, *rest])


def parse(program: str, arguments: list[str]) -> None:
    """Parse a command of ours as it would be, without running it."""
    verb, *rest = arguments
    command = verbs(program)[verb]
    context = click.Context(command, info_name=verb)
    command.make_parser(context).parse_args(list(rest))
    check_options(program, verb, rest)


def check_options(program: str, verb: str, arguments: list[str]) -> None:
    """Make sure that the help shows the options: those that it hides are old spellings."""
    used = {word.partition("=")[0] for word in arguments if re.match(r"--[a-z]", word)}
    assert used <= options_of(program, verb), f"{program} {verb}: {used}"


def check_program(arguments: list[str]) -> None:
    """Make sure that a program of ops knows its options."""
    file = ROOT / arguments[0]
    text = source_of(file)
    for option in re.findall(r"--[a-z]+", " ".join(arguments)):
        assert f'"{option}"' in text, f"{file}: {option}"


def source_of(file: Path) -> str:
    """Return the source of a program; of a script that runs a package beside it, the package's."""
    text = file.read_text(encoding="utf-8")
    if runs := re.search(r"-m (\w+)", "" if file.suffix else text):
        text = "".join(one.read_text("utf-8") for one in (file.parent / runs[1]).glob("*.py"))
    return text


@pages
def test_commands_in_the_prose_have_the_verbs_and_options_that_they_name(page: Path) -> None:
    for code in inline(page):
        program, *rest = code.split()
        if program in documents.GROUPS and rest and not rest[0].isupper():
            assert rest[0] in verbs(program), code
            check_options(program, rest[0], rest)
        elif program == "python" and rest[0].startswith("ops/"):
            check_program(rest)
        elif program.startswith("ops/bench/") and rest:
            check_program([program, *rest])
        elif program.startswith("--"):
            assert program.partition("=")[0] in FOREIGN_OPTIONS | options_known(page), code


def options_known(page: Path) -> set[str]:
    """Return the options of our commands, and of the programs of ops that a page names."""
    programs = r"ops/\w+/\w+\.py|ops/bench/all"
    files = {path for code in inline(page) for path in re.findall(programs, code)}
    text = "".join(source_of(ROOT / file) for file in files)
    ours = (options_of(program, verb) for program in documents.GROUPS for verb in verbs(program))
    return set(re.findall(r'"(--[a-z]+)"', text)).union(*ours)


def test_the_chinese_readme_has_the_same_commands_and_examples() -> None:
    assert lines(CHINESE) == lines(README)
    for language in ("python", "json"):
        assert documents.blocks(CHINESE, language) == documents.blocks(README, language)


def test_the_example_of_a_record_is_one() -> None:
    (example,) = documents.blocks(README, "json")
    record = msgspec.json.decode(example, type=Record)
    assert set(json.loads(example)) | {"embedding", "thumbnail"} == set(Record.__struct_fields__)
    guide = (DOCS / "guide.md").read_text(encoding="utf-8").split("### Records")[1]
    assert record.status == "ok"
    assert all(f"`{name}`" in guide for name in json.loads(example))
    assert all(f"`{name}`" in guide for name in Timing.__struct_fields__)


@pytest.mark.parametrize("program", documents.GROUPS)
def test_every_verb_explains_itself_with_an_example_and_a_page_knows_it(program: str) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for verb, command in verbs(program).items():
        if command.hidden:
            continue
        assert f"Example: {program} {verb}" in help_of(program, verb)
        assert f"{program} {verb}" in text
        shown = (p for p in command.params if isinstance(p, click.Option) and not p.hidden)
        assert all(option.help for option in shown), verb


def test_the_settings_page_is_generated_from_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "ops/docs/make_settings.py", "--check"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"run ops/docs/make_settings.py\n{done.stderr}"


@pages
def test_every_setting_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"WANWU_[A-Z_]+\b", text)) <= SETTINGS


def test_the_guide_has_every_error_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    images = [
        kind for kind in kinds if issubclass(kind, errors.ImageError) and "code" in vars(kind)
    ]
    guide = (DOCS / "guide.md").read_text(encoding="utf-8")
    # `reported` is the producer's own code for what it passes on.
    assert {kind.code for kind in images if f"`{kind.code}`" not in guide} <= {"reported"}


def test_every_metric_is_explained_and_every_explained_metric_exists() -> None:
    source = "".join(
        (ROOT / file).read_text(encoding="utf-8")
        for file in ("worker/monitoring/prometheus.py", "producer/monitoring/prometheus.py")
    )
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(wanwu_[a-z_]+)`", page))
    families = {re.sub(r"_(total|info)$", "", name) for name in explained}
    assert families == {
        re.sub(r"_(total|info)$", "", name) for name in re.findall(r'"(wanwu_[a-z_]+)"', source)
    }


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    source = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("tests/*/test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 15
    for name in named:
        assert f"def {name}(" in source, name
    table = page.split("## Delivery guarantees")[1].split("###")[0]
    promises = [row for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(promises) >= 13
    assert all("`test_" in row for row in promises)


@cache
def sentences() -> str:
    """Return all texts of the code, a line each; what is filled in later is left out."""
    files = [file for package in ("producer", "worker") for file in ROOT.glob(f"{package}/**/*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_bytes()))]
    return "\n".join(
        str(node.value)
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_every_message_of_troubleshooting_is_one_of_ours() -> None:
    page = DOCS / "troubleshooting.md"
    cells = re.findall(r"^\| (.+?) \| .+ \| .* \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    messages = [code for code in quoted if "..." in code]
    events = [code for code in quoted if re.fullmatch(r"[a-z]+\.[a-z_]+", code)]
    assert len(messages) > 8
    assert len(events) > 5
    for message in messages:
        for part in filter(None, (part.strip() for part in message.split("..."))):
            assert part in sentences(), message
    for event in events:
        assert re.search(rf"^{event}\b", sentences(), re.MULTILINE), event


@pages
def test_the_documents_speak_in_the_terms_of_the_field(page: Path) -> None:
    found = re.findall(rf"\b(?:{RETIRED})\b", documents.prose(page), re.IGNORECASE)
    assert not found, found
