"""One vocabulary, the field's: none of the private words that this code once had comes back."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import ROOT

import worker.cli
from producer import cli as producer_cli

# As names in code: whole identifiers, of whatever kind.
RETIRED_NAMES = frozenset(
    [
        *(
            "Desk",
            "open_desk",
            "desk",
            "door",
            "Lane",
            "Question",
            "Session",
            "FarSession",
            "greet",
        ),
        *("hitch", "leave_word", "Maker", "Outbox", "outbox", "Parcel", "parcel", "insist"),
        *("Ledger", "ledger", "inherit", "rehearsal", "rehearse", "told", "words", "Departures"),
        *("Arrivals", "depart", "Journey", "Flight", "land", "verdict", "blame", "Quarantine"),
        *("quarantine", "Recall", "recalled", "Remembered", "Shelf", "shelf", "keepsake", "Kept"),
        *("hold_back", "runs_ahead", "bury", "hear", "ToldEvents", "one_heap", "crew", "Crew"),
        *("keep_freed_memory", "DoorError", "DoorJobs", "Look", "contenders", "telling"),
    ]
)
# In sentences: docstrings, comments, help, messages, documents.
RETIRED_WORDS = re.compile(
    r"\b(told|desk|door|outbox|parcels?|ledger|hitch|rehears(?:e|al)|keepsake|quarantine|shelf"
    r"|insist|given up|how they fare|one a Redis|a row an image|an image a row)\b",
    re.IGNORECASE,
)
SOURCES = sorted(
    file
    for folder in ("producer", "worker", "tests", "ops")
    for file in (ROOT / folder).rglob("*.py")
    if file.name != Path(__file__).name
)
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "ops").rglob("*.md"))]


def tokens(file: Path) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)


def place(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def test_no_name_in_code_is_a_retired_one() -> None:
    found = [
        f"{place(file, token.start[0])}: {token.string}"
        for file in SOURCES
        for token in tokens(file)
        if token.type == tokenize.NAME and token.string in RETIRED_NAMES
    ]
    assert not found


def test_no_sentence_in_code_has_a_retired_word() -> None:
    found = [
        f"{place(file, token.start[0])}: {match[0]}"
        for file in SOURCES
        if file.is_relative_to(ROOT / "producer") or file.is_relative_to(ROOT / "worker")
        for token in tokens(file)
        if token.type in {tokenize.STRING, tokenize.COMMENT}
        for match in RETIRED_WORDS.finditer(token.string)
    ]
    assert not found


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_document_has_a_retired_word(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [
        f"{n}: {m[0]}" for n, line in enumerate(lines, 1) for m in RETIRED_WORDS.finditer(line)
    ]
    assert not found


@pytest.mark.parametrize(
    "command", [producer_cli.main, worker.cli.main], ids=["producer", "worker"]
)
def test_no_help_has_a_retired_word(command: click.Group) -> None:
    runner = CliRunner()
    verbs = [[], *([verb] for verb in command.commands)]
    pages = [runner.invoke(command, [*verb, "--help"]).output for verb in verbs]
    assert all("Usage" in page for page in pages)
    assert not [match[0] for page in pages for match in RETIRED_WORDS.finditer(page)]
