"""ops/bundled_model/*.tsv: one Chinese name a class, aliases of its own, a kind that exists."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from conftest import ROOT

from worker.contract.labels import parse_labels

Row = dict[str, str]
CLASSES: Final = 1_000
MAX_NAME_CHARS: Final = 12
TOP_LEVELS: Final = {"动物", "植物", "交通工具", "电子产品", "食物", "自然景观"}
CHINESE: Final = re.compile(r"[\u3400-\u9fff]")
# Chinese characters and half-width letters and digits: no blanks, brackets, full-width letters.
CHINESE_LABEL: Final = re.compile(r"[\u3400-\u9fffA-Za-z0-9]+")
ENGLISH_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9' -]*[A-Za-z]")


def table(name: str) -> list[Row]:
    with (ROOT / "ops" / "bundled_model" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def split(cell: str) -> list[str]:
    return cell.split("|") if cell else []


def chinese_texts(rows: Iterable[Row], name: str) -> list[str]:
    return [text for row in rows for text in (row[name], *split(row["aliases"]))]


def repeated(texts: Iterable[str]) -> list[str]:
    return [text for text, count in Counter(texts).items() if count > 1]


def test_the_thousand_classes_stand_in_order() -> None:
    rows = table("classes.tsv")
    assert [row["index"] for row in rows] == [str(index) for index in range(CLASSES)]
    wnids = [row["wnid"] for row in rows]
    # The order of the classes is that of their WordNet ids.
    assert wnids == sorted(set(wnids))
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)


def test_no_cell_is_blank_or_padded() -> None:
    for row in (*table("classes.tsv"), *table("categories.tsv")):
        optional = {"aliases", "parent" if "category" in row else ""}
        assert all(row[column] for column in row.keys() - optional), row
        assert all(part and part == part.strip() for v in row.values() for part in split(v)), row


def test_no_name_or_alias_stands_twice() -> None:
    classes, categories = table("classes.tsv"), table("categories.tsv")
    texts = chinese_texts(classes, "name") + chinese_texts(categories, "category")
    assert repeated(text.casefold() for text in texts) == []
    english = [text.casefold() for row in classes for text in split(row["english_aliases"])]
    assert repeated(english) == []


def test_names_are_short_and_chinese() -> None:
    classes = table("classes.tsv")
    texts = chinese_texts(classes, "name") + chinese_texts(table("categories.tsv"), "category")
    assert [text for text in texts if not CHINESE_LABEL.fullmatch(text)] == []
    assert [text for text in texts if not CHINESE.search(text)] == []
    assert [text for text in texts if len(text) > MAX_NAME_CHARS] == []
    english = [text for row in classes for text in split(row["english_aliases"])]
    assert [text for text in english if not ENGLISH_LABEL.fullmatch(text)] == []


def test_every_class_has_a_kind_and_every_kind_a_top_level() -> None:
    parents = {row["category"]: row["parent"] for row in table("categories.tsv")}
    tops = {category for category, parent in parents.items() if not parent}
    kinds = parents.keys() - tops
    assert tops >= TOP_LEVELS
    assert {row["parent"] for row in table("classes.tsv")} == kinds
    assert {parents[kind] for kind in kinds} == tops


def test_the_names_are_a_label_file() -> None:
    rows = table("classes.tsv")
    names = [" | ".join([row["name"], *split(row["aliases"])]) for row in rows]
    pack = parse_labels(
        "\n".join(f"{n} < {row['parent']}" for n, row in zip(names, rows, strict=True))
    )
    assert pack.labels == tuple(row["name"] for row in rows)
    assert len(pack.parents) == CLASSES
