"""Which tags a sidecar gets: by default those that are as likely as all else together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from records import record

from producer.arguments import argument
from producer.cli.records import convert as verb
from producer.formats import open_sink, target_of
from producer.formats.output import Output
from producer.formats.xmp_sidecar import PLACES, Sidecar, sidecar_of
from worker.contract.messages import Tag

# A cat, and what is least unlike a cat beside it.
TAGS = (Tag("猫", 0.9, "猫科", ("动物",)), Tag("骆驼", 0.06), Tag("凤凰", 0.01))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return tmp_path / "猫.jpg"


@pytest.fixture
def meadow(tmp_path: Path) -> Path:
    return tmp_path / "草地.jpg"


def keywords(image: Path) -> list[str]:
    return Sidecar.read(sidecar_of(str(image))).keywords("dc:subject")


def write(output: Output, photo: Path, meadow: Path) -> None:
    with output.sink() as sink:
        sink.write(record(str(photo), tags=TAGS))
        sink.write(record(str(meadow), tags=(Tag("狗", 0.5), Tag("马", 0.4))))
        sink.write(record(f"{meadow}.png", tags=(Tag("马", 0.4),)))
        sink.flush()


def test_a_cat_is_no_camel(photo: Path, meadow: Path) -> None:
    output = Output.at(None, "xmp")
    write(output, photo, meadow)
    assert keywords(photo) == ["猫"]
    assert keywords(meadow) == ["狗"]
    (remark,) = output.remarks()
    assert remark == (
        "tags below 0.5 were left out of the sidecars: 4 (images without any: 1); "
        f"{argument('threshold')} sets another limit"
    )


def test_scores_are_not_added_up_whatever_lies_below_a_label(photo: Path) -> None:
    # As `--calibrated` gives them: three ways to say that it is hardly a car.
    tags = (Tag("汽车", 0.3), Tag("轿车", 0.2, "汽车"), Tag("跑车", 0.1, "汽车"))
    with Output.at(None, "xmp").sink() as sink:
        sink.write(record(str(photo), tags=(Tag("草", 0.6), *tags)))
    assert keywords(photo) == ["草"]


def test_a_threshold_of_ones_own_is_the_only_one(photo: Path, meadow: Path) -> None:
    output = Output.at(None, "xmp", 0.05)
    write(output, photo, meadow)
    assert keywords(photo) == ["猫", "骆驼"]
    assert [*output.remarks()] == ["tags below 0.05 were left out: 1 (images without any: 0)"]
    output = Output.at(None, "xmp", 0.0)
    write(output, photo, meadow)
    assert keywords(photo) == ["猫", "骆驼", "凤凰"]
    assert not [*output.remarks()]


def test_files_of_records_keep_all(photo: Path, meadow: Path, tmp_path: Path) -> None:
    output = Output.at(str(tmp_path / "tags.csv"), None)
    write(output, photo, meadow)
    assert "猫|骆驼|凤凰" in (tmp_path / "tags.csv").read_text(encoding="utf-8")
    assert not [*output.remarks()]


@pytest.fixture
def convert(photo: Path, tmp_path: Path) -> Callable[..., str]:
    file = tmp_path / "tags.jsonl"
    with open_sink(target_of(file, None)) as sink:
        sink.write(record(str(photo), tags=TAGS))

    def run(*argv: str) -> str:
        done = CliRunner().invoke(verb, [str(file), *argv])
        assert done.exit_code == 0, done.stderr
        return done.stderr

    return run


def test_records_are_converted_to_keywords_that_are_likely(
    convert: Callable[..., str], photo: Path
) -> None:
    assert "tags below 0.5 were left out of the sidecars: 2" in convert("--format", "xmp")
    assert keywords(photo) == ["猫"]
    assert "tags below 0.05 were left out: 1" in convert("--format", "xmp", "--threshold", "0.05")
    assert keywords(photo) == ["猫", "骆驼"]


def test_a_threshold_holds_in_any_format(convert: Callable[..., str], tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    convert("--out", str(table))
    assert "猫|骆驼|凤凰" in table.read_text(encoding="utf-8")
    convert("--out", str(table), "--overwrite", "--threshold", "0.5")
    assert "骆驼" not in table.read_text(encoding="utf-8")


def test_each_place_has_the_whole_line(photo: Path, meadow: Path) -> None:
    write(Output.at(None, "xmp"), photo, meadow)
    found = {
        place.name: Sidecar.read(sidecar_of(str(photo))).keywords(place.name) for place in PLACES
    }
    assert found == {
        "dc:subject": ["猫"],
        "lr:hierarchicalSubject": ["动物|猫科|猫"],
        "digiKam:TagsList": ["动物/猫科/猫"],
    }
