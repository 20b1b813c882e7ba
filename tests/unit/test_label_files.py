"""Label files as editors and Excel save them: read where it is certain, else refused with a way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.contract.label_files import read_label_file, read_labels
from worker.contract.labels import LabelPack, LabelsError

LINES = "猫 | 小猫 < 动物\n红花\n公共汽车\n"
WANTED = LabelPack(("猫", "红花", "公共汽车"), (), {"猫": ("小猫",)}, {"猫": "动物"})
TABLE = "label,aliases,parent\n猫,小猫,动物\n红花,,\n公共汽车\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "gbk"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("text", [LINES, TABLE, TABLE.replace(",", "\t"), TABLE.replace(",", ";")])
def test_every_way_of_saving_gives_the_same_labels(encoding: str, end: str, text: str) -> None:
    assert read_label_file(text.replace("\n", end).encode(encoding)) == WANTED


@pytest.mark.parametrize(
    "text",
    [
        "标签,别名,上级\n猫,小猫,动物\n红花,,\n公共汽车,,\n",
        "上级,标签,别名\n动物,猫,小猫\n,红花,\n,公共汽车,\n",
        "\n\nLABEL,Parent,Alias\n猫,动物,小猫\n\n红花\n,,\n公共汽车\n",
        '"label","aliases","parent"\n"猫","小猫","动物"\n"红花","",""\n"公共汽车","",""\n',
        "猫 ｜ 小猫 ＜ 动物\n红花\n公共汽车\n",
        json.dumps([{"label": "猫", "aliases": ["小猫"], "parent": "动物"}, "红花", "公共汽车"]),
        json.dumps([{"label": "猫", "aliases": "小猫", "parent": "动物"}, "红花", "公共汽车"]),
    ],
)
def test_headers_may_be_chinese_and_lists_json(text: str) -> None:
    assert read_label_file(text.encode()) == WANTED


def test_a_cell_may_hold_several_aliases_and_a_label_a_comma() -> None:
    found = read_label_file('label,aliases\n"丁鱼, 学名 Tinca","丁岁；须鱼|丁桂鱼"\n'.encode())
    assert found.aliases == {"丁鱼, 学名 Tinca": ("丁岁", "须鱼", "丁桂鱼")}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Zürich\nMalmö\nCafé\n", "latin-1"),
        ("고양이\n강아지\n자동차\n", "euc-kr"),
        ("кошка\nмама\n", "cp1251"),
        ("貓\n汽車\n", "big5"),
        ("ねこ\n犬\n", "euc-jp"),
        ("ねこ\n犬\n", "shift-jis"),
        ("猫\n狗\n", "gb18030"),  # Could be Korean as well.
        ("猫\n狗\n", "utf-16-le"),
    ],
)
def test_an_encoding_that_is_not_certain_is_refused_with_the_way_out(
    text: str, encoding: str
) -> None:
    with pytest.raises(LabelsError, match=r"^line \d+: .*as UTF-8"):
        read_label_file(text.encode(encoding))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("猫\n狗\t小狗\n", "line 2: there is a tab in a label: for a table, begin with a header"),
        ("猫｜小猫\n", "line 1: write blanks around ｜"),
        ("狗\n猫＜动物\n", "line 2: write blanks around ＜"),
        ('猫\n"狗"\n', "line 2: quotes would be a part of the label"),
        ("猫\n狗\x07\n", "line 2: there is a control character"),
        ("猫\n\ufffd狗\n", "line 2: a character was lost"),
        ("label\n猫\n", "line 1: 'label' may be a header or a label"),
        ("标签\n猫\n", "line 1: '标签' may be a header or a label"),
        ("标签,备注\n猫,x\n", "the header has a column '备注'"),
        ("label,parent,上级\n猫,a,b\n", "the header names the column 上级 twice"),
        ("label,parent\n猫,动物\n狗,动物,x\n", "line 3: it has more cells"),
        ('label,parent\n"猫,动物\n', "line 2: it is no row of a table"),
        ("label,parent\n猫,动物\n,动物\n", "line 3: a label is blank"),
        ('[\n "猫",\n "狗"\n', "line 4: this is no JSON"),
        ('{"labels": ["猫"]}', "JSON of labels is a list of texts"),
        ("[" * 5_000, "JSON of labels is a list of texts"),
        ('[{"label": ' + "[" * 5_000, "JSON of labels is a list of texts"),
        (
            '["猫",\n "\\ud83d\\ude00 \\\\ud800",\n "\\ud800"]',
            r"line 3: \ud800 is only half of a char",
        ),
        ('["猫\\uDE00"]', r"line 1: \uDE00 is only half of a character"),
        ('["猫", 3]', "item 2: a label is a text"),
        ('["猫", {"label": "狗", "name": "x"}]', "item 2: a label is a text"),
        ('["猫", {"label": "狗", "aliases": ["猫"]}]', "item 2: '猫' stands in item 1 already"),
        ("[]", "no label in it"),
        ("label,parent\n", "no label in it"),
        ("PK\x03\x04", "it is a workbook of a spreadsheet"),
    ],
)
def test_what_is_not_certain_is_named_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(LabelsError) as error:
        read_label_file(text.encode())
    assert str(error.value).startswith(reason)


def test_signs_that_are_no_separators_stay_in_labels() -> None:
    labels = ("[红]", "a|b", "x<y", "C, D", "“花”", "它's")
    assert read_label_file("\n".join(labels).encode()).labels == labels


def test_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(LabelsError, match=r"labels\.csv: it is a workbook"):
        read_labels(file)
