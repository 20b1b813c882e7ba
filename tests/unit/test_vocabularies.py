"""worker.contract.vocabularies, and how --labels and `producer labels` give them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from conftest import ROOT
from tiny_model import build
from verbs import verbs_of

from producer.cli import main
from producer.cli.options import LabelFile
from worker.artifact.manifest import open_artifact
from worker.contract.labels import LabelPack, parse_labels
from worker.contract.vocabularies import NAMES, Vocabulary, find_vocabulary, vocabularies
from worker.errors import ArtifactError
from worker.labels.own_labels import own_pack

ALL = vocabularies()
PACKS = {one.name: one.read_pack() for one in ALL}
# Fewest and most labels.
SIZES = {
    "general": (1_500, 3_000),
    "scenes": (150, 300),
    "food": (250, 400),
    "ecommerce": (200, 350),
    "documents": (50, 100),
}
each = pytest.mark.parametrize("one", ALL, ids=NAMES)


def call(*argv: str) -> Result:
    return CliRunner().invoke(main, argv)


def texts(pack: LabelPack) -> list[str]:
    return [*pack.labels, *(alias for names in pack.aliases.values() for alias in names)]


def lineage(pack: LabelPack, label: str) -> list[str]:
    """Return a label and its parents, up to the fourth."""
    found = [label]
    while found[-1] in pack.parents and len(found) < 4:
        found.append(pack.parents[found[-1]])
    return found


def test_every_file_is_listed_and_every_one_listed_is_a_file() -> None:
    directory = ROOT / "worker" / "contract" / "vocabularies"
    assert {file.stem for file in directory.glob("*.txt")} == set(NAMES)
    assert tuple(one.name for one in ALL) == NAMES


@each
def test_a_vocabulary_says_what_it_is_in_two_languages(one: Vocabulary) -> None:
    assert re.fullmatch(r"\d+\.\d+", one.version)
    assert re.fullmatch(r"[a-z]+", one.name)
    assert re.fullmatch(r"[\u4e00-\u9fff]+", one.chinese_name)
    assert one.purpose.isascii()
    assert not one.chinese_purpose.isascii()


@each
def test_a_vocabulary_has_about_as_many_labels_as_are_promised(one: Vocabulary) -> None:
    fewest, most = SIZES[one.name]
    assert fewest <= len(PACKS[one.name].labels) <= most


@each
def test_no_text_stands_twice_and_no_line_is_a_repetition(one: Vocabulary) -> None:
    found = texts(PACKS[one.name])
    assert len(found) == len(set(found))
    lines = [line for line in one.file.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith("#")]) == len(PACKS[one.name].labels)


@each
def test_every_parent_is_a_label_and_no_label_is_deeper_than_three(one: Vocabulary) -> None:
    assert set(PACKS[one.name].parents.values()) <= set(PACKS[one.name].labels)
    assert max(len(lineage(PACKS[one.name], label)) for label in PACKS[one.name].labels) in {2, 3}


@each
def test_labels_are_short_words_of_chinese_without_spaces(one: Vocabulary) -> None:
    for text in texts(PACKS[one.name]):
        assert re.fullmatch(r"[\u4e00-\u9fff0-9A-Za-z]{1,10}", text), text
        assert re.search(r"[\u4e00-\u9fff]|^(SUV|MPV|KTV|LOGO)$", text), text


def test_what_is_a_label_in_one_vocabulary_is_an_alias_in_none() -> None:
    labels = {label for pack in PACKS.values() for label in pack.labels}
    aliases = {alias for pack in PACKS.values() for alias in texts(pack)[len(pack.labels) :]}
    assert not labels & aliases


def test_the_same_label_has_the_same_aliases_wherever_no_label_needs_them() -> None:
    general = PACKS["general"]
    for name, pack in PACKS.items():
        for label in set(pack.labels) & set(general.labels):
            assert pack.aliases.get(label) == general.aliases.get(label), (name, label)


@pytest.mark.parametrize("name", [*NAMES, *(one.chinese_name for one in ALL)])
def test_a_vocabulary_is_printed_as_it_is_and_read_again(name: str) -> None:
    found = find_vocabulary(name)
    assert found
    printed = call("labels", name).stdout_bytes
    assert printed == found.file.read_bytes()
    assert parse_labels(printed.decode()) == PACKS[found.name]


def test_vocabularies_are_listed_with_what_a_person_chooses_by() -> None:
    listed = call("labels").stdout.splitlines()[1:]
    assert len(listed) == len(ALL)
    for line, one in zip(listed, ALL, strict=True):
        count = f"{len(PACKS[one.name].labels):,}"
        shown = [one.name, one.chinese_name, count, one.version, one.purpose]
        assert line.strip().split(maxsplit=4) == shown


def test_the_page_about_labels_has_the_numbers_of_the_files() -> None:
    page = (ROOT / "ops" / "docs" / "labels.md").read_text(encoding="utf-8")
    for one in ALL:
        count = f"{len(PACKS[one.name].labels):,}"
        assert f"| `{one.name}` | `{one.chinese_name}` | {count} |" in page


def test_a_name_that_no_vocabulary_has_is_wrong_usage() -> None:
    done = call("labels", "generall")
    assert done.exit_code == 2
    assert "generall" in done.stderr
    assert ", ".join(NAMES) in done.stderr


@pytest.mark.parametrize("name", ["general", "通用"])
def test_a_name_is_a_vocabulary_before_it_is_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = LabelFile()
    general = ALL[0].file
    assert kind.convert(name, None, None) == general
    assert not capsys.readouterr().err
    Path(name).write_text("猫\n", encoding="utf-8")
    assert kind.convert(name, None, None) == general
    assert f"./{name}" in capsys.readouterr().err
    for path in (f"./{name}", str(tmp_path / name)):
        assert kind.convert(path, None, None) == Path(path)
    assert not capsys.readouterr().err


def test_no_name_of_a_vocabulary_can_be_a_path() -> None:
    for one in ALL:
        assert not {"/", "."} & set(one.name + one.chinese_name)


@pytest.mark.parametrize(("name", "advised"), [("genral", True), ("no.txt", False), ("a/b", False)])
def test_a_name_that_is_neither_file_nor_vocabulary_is_told_where_to_look(
    name: str, advised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("submit", ".", "--labels", name)
    assert done.exit_code == 2
    assert ("producer labels" in done.stderr) == advised


@pytest.mark.parametrize("option", ["--labels", "--background"])
@pytest.mark.parametrize("verb", ["submit", "watch", "retag"])
def test_every_option_that_takes_a_label_file_takes_a_vocabulary(verb: str, option: str) -> None:
    (found,) = (each for each in verbs_of(main)[verb].params if option in each.opts)
    assert isinstance(found.type, LabelFile)


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the vocabularies, which are used in their stead."""
    for one in ALL:
        shutil.copy(one.file, tmp_path)
    monkeypatch.setattr("worker.contract.vocabularies._DIRECTORY", tmp_path)
    return tmp_path


def change_header(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace("# version: 1.0\n", ""), "utf-8")


def add_bad_line(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8") + "猫 < < 动物\n", encoding="utf-8")


def write_other_bytes(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\xff\n")


CHANGES = (change_header, add_bad_line, write_other_bytes, Path.unlink)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_named_where_it_is_needed_and_no_harm_elsewhere(
    copies: Path, change: Callable[[Path], None]
) -> None:
    change(copies / "food.txt")
    listed = call("labels")
    assert listed.exit_code == 2
    assert "food.txt: " in listed.stderr
    assert "Traceback" not in listed.output
    assert call("labels", "场景").exit_code == call("labels", "general").exit_code == 0
    assert find_vocabulary("电商") is not None
    assert find_vocabulary("labels.txt") is None


@pytest.mark.parametrize("change", CHANGES)
def test_a_worker_whose_vocabulary_was_changed_says_so(
    copies: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(copies / "general.txt")
    model = open_artifact(build(tmp_path / "model", labels=None))
    with pytest.raises(ArtifactError, match=r"general\.txt: "):
        own_pack(model)


@pytest.mark.parametrize("change", [change_header, Path.unlink])
def test_an_option_that_names_a_changed_file_is_refused(
    copies: Path, change: Callable[[Path], None]
) -> None:
    change(copies / "food.txt")
    with pytest.raises(click.BadParameter, match=r"food\.txt: "):
        LabelFile().convert("food", None, None)
