"""producer.formats.csv and producer.formats.parquet, read back by programs that are not ours."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import produced
from hypothesis import given
from hypothesis import strategies as st
from records import embedding, failed, record, several

from producer.errors import RecordsError
from producer.formats import open_sink, records_of, target_of
from producer.formats.csv import COLUMNS
from producer.formats.csv_cells import defused, true_text
from producer.formats.jsonl import line_of
from producer.formats.names import from_utf8, to_utf8
from producer.formats.parquet import ROW_GROUP
from worker.contract.messages import Record, Stamp, Tag

ENDINGS = [".jsonl", ".csv", ".parquet", ".html"]


def write(file: Path, *records: Record, form: str | None = None, appends: bool = False) -> None:
    with open_sink(target_of(file, form), appends=appends) as sink:
        for each in records:
            sink.write(each)


@pytest.mark.parametrize("ending", ENDINGS)
def test_records_come_back_as_they_were(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, *several())
    assert [line_of(each) for each in records_of(file)] == [line_of(each) for each in several()]
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_grows_and_one_is_begun_anew(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, record("/a.jpg"))
    write(file, record("/b.jpg"), appends=True)
    assert [each.path for each in records_of(file)] == ["/a.jpg", "/b.jpg"]
    write(file, record("/c.jpg"))
    assert [each.path for each in records_of(file)] == ["/c.jpg"]


@pytest.mark.parametrize("ending", [".parquet", ".html"])
def test_what_had_come_before_a_crash_stays_in_the_journal(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"tags{ending}"
    with pytest.raises(RuntimeError), open_sink(target_of(file, None)) as sink:  # noqa: PT012
        sink.write(record("/a.jpg"))
        raise RuntimeError
    assert not file.exists()
    write(file, record("/b.jpg"), appends=True)
    assert [each.path for each in records_of(file)] == ["/a.jpg", "/b.jpg"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_holds_no_records_is_told(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"tags{ending}"
    file.write_bytes(b"path,label\n/a.jpg,x\n")
    with pytest.raises(RecordsError, match="tags"):
        list(records_of(file))


def test_a_torn_row_is_left_and_a_break_within_quotes_tears_none(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    write(file, *several())
    whole = file.read_bytes()
    file.write_bytes(whole + b'/torn.jpg,ok,"a\r\n')
    assert len(list(records_of(file))) == len(several())


def test_duckdb_and_pandas_read_the_csv(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    write(file, *several())
    table = duckdb.sql(f"select * from read_csv('{file}')")
    assert tuple(table.columns) == COLUMNS
    rows = table.fetchall()
    assert [row[0] for row in rows] == [each.path for each in several()]
    frame = pd.read_csv(file)
    assert list(frame["label"][:2]) == ["猫", "a|b\\"]
    assert frame["score"][0] == 0.93
    assert list(frame["error_code"].dropna()) == ["not_an_image"]
    assert frame["infer_ms"].dtype == float


def test_the_mark_that_excel_looks_for_stands_once_at_the_beginning(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    write(file, record(), form="csv-excel")
    write(file, record(), form="csv-excel", appends=True)
    assert file.read_bytes().startswith(b"\xef\xbb\xbfpath,")
    assert file.read_bytes().count(b"\xef\xbb\xbf") == 1
    assert len(list(records_of(file))) == 2
    assert len(pd.read_csv(file)) == 2


FORMULAS = ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "＝1", "'=1", "''@", "'", "'猫", "=a|b"]


def rows_of(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.reader(lines))


def a_formula(text: str) -> Record:
    return record(text, tags=(Tag(text, 0.5, parent=text),), worker=text, model=text, labels=text)


def test_no_cell_of_a_table_for_a_spreadsheet_is_a_formula_and_each_comes_back(
    tmp_path: Path,
) -> None:
    file, plain = tmp_path / "excel.csv", tmp_path / "plain.csv"
    names = [*FORMULAS, "/usual.jpg"]
    for name in names:
        for out, form in ((file, "csv-excel"), (plain, "csv")):
            write(out, a_formula(name), form=form, appends=True)
    cells = [cell for row in rows_of(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r＝"))]
    assert list(records_of(file)) == list(records_of(plain)) == list(map(a_formula, names))
    assert [row[0] for row in rows_of(plain)[1:]] == names


@given(st.text(st.sampled_from("'=+-@\t猫")))
def test_an_apostrophe_is_added_and_taken_away_alike(text: str) -> None:
    assert true_text(defused(text)) == text


def test_a_time_before_1970_stays_a_number(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    old = record(file=Stamp(1, -5.5))
    write(file, old, form="csv-excel")
    assert pd.read_csv(file)["modified_s"][0] == -5.5
    assert next(records_of(file)).file == old.file


@pytest.mark.parametrize("form", ["csv", "csv-excel"])
def test_a_table_goes_on_as_it_began(tmp_path: Path, form: str) -> None:
    file = tmp_path / "tags.csv"
    other = {"csv": "csv-excel", "csv-excel": "csv"}[form]
    write(file, a_formula("'=1"), form=form)
    write(file, a_formula("'=2"), form=other, appends=True)
    assert [each.path for each in records_of(file)] == ["'=1", "'=2"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".html"])
def test_a_line_longer_than_any_record_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("producer.formats.lines.LONGEST_LINE", 1000)
    monkeypatch.setattr("producer.formats.csv.LONGEST_LINE", 1000)
    for body in (b"x" * 2000, b'"' + b"\n" * 2000):
        (tmp_path / f"film{ending}").write_bytes(body)
        with pytest.raises(RecordsError, match="film"):
            list(records_of(tmp_path / f"film{ending}"))


def test_duckdb_and_pandas_read_the_parquet_with_its_types(tmp_path: Path) -> None:
    file = tmp_path / "tags.parquet"
    write(file, *several())
    found = duckdb.sql(
        f"select path, tags[1].label as label, tags[1].score as score, error.code as code,"
        f" timing.infer_ms as ms, file.size_bytes as size from '{file}' order by path"
    )
    assert dict(zip(found.columns, found.types, strict=True)) == {
        "path": "VARCHAR",
        "label": "VARCHAR",
        "score": "DOUBLE",
        "code": "VARCHAR",
        "ms": "DOUBLE",
        "size": "BIGINT",
    }
    assert ("/图/猫.jpg", "猫", 0.93, None, 20.0, 123) in found.fetchall()
    frame = pd.read_parquet(file)
    assert frame["status"].tolist() == ["ok", "ok", "ok", "failed"]
    tag = frame["tags"][1][0]
    assert tag | {"ancestors": list(tag["ancestors"])} == {
        "label": "a|b\\",
        "score": 0.5,
        "parent": "<c|d",
        "ancestors": ["动物"],
    }


def test_a_table_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tags.parquet"
    write(file, *several())
    table = pq.read_table(file)
    rows = [
        [{name: tag[name] for name in ("label", "score", "parent")} for tag in tags]
        for tags in table["tags"].to_pylist()
    ]
    pq.write_table(table.set_column(table.schema.get_field_index("tags"), "tags", [rows]), file)
    found = [tag for one in records_of(file) for tag in one.tags]
    wanted = [tag for one in several() for tag in one.tags]
    assert [tag.parent for tag in found] == [tag.parent for tag in wanted]
    assert not any(tag.ancestors for tag in found)


def test_a_row_says_all_that_lies_above_each_label(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv"
    write(file, record(tags=(Tag("金毛犬", 0.5, "狗", ("动物",)), Tag("草", 0.25))))
    assert pd.read_csv(file)["parents"][0] == "狗 < 动物|"


def test_embeddings_are_lists_of_float16_of_one_size(tmp_path: Path) -> None:
    file = tmp_path / "tags.parquet"
    write(
        file,
        failed(),
        record(embedding=embedding(0.5, -0.25, 1.0)),
        *[record(embedding=embedding(1, 2, 3)) for _ in range(ROW_GROUP)],
        failed(),
    )
    frame = pd.read_parquet(file)
    assert frame["embedding"][0] is None
    assert frame["embedding"][1].dtype == np.float16
    assert frame["embedding"][1].tolist() == [0.5, -0.25, 1.0]
    found = duckdb.sql(f"select embedding from '{file}' where embedding is not null limit 1")
    assert found.types == ["FLOAT[]"]
    assert found.fetchall() == [([0.5, -0.25, 1.0],)]
    kept = [each.embedding for each in records_of(file)]
    assert kept[:2] == [None, embedding(0.5, -0.25, 1.0)]
    assert kept[-2:] == [embedding(1, 2, 3), None]


def test_embeddings_of_two_models_do_not_fit_into_one_table(tmp_path: Path) -> None:
    file = tmp_path / "tags.parquet"
    with pytest.raises(RecordsError, match="dimensions"):
        write(file, record(embedding=embedding(1, 2)), record(embedding=embedding(1, 2, 3)))


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl", ".html"])
def test_any_name_comes_back_from_a_file_that_is_true_utf8(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"tags{ending}"
    names = [
        os.fsdecode(b"/\xff.jpg"),
        "/\\udcff.jpg",
        "/\\\\udcff.jpg",
        "C:\\users",
        "/\\\udcff.jpg",
    ]
    write(file, *map(record, names))
    assert [each.path for each in records_of(file)] == names
    if ending == ".csv":
        assert "\n/\\udcff.jpg," in file.read_text(encoding="utf-8")
    if ending == ".parquet":
        assert pq.read_table(file)["path"][0].as_py() == "/\\udcff.jpg"


@given(st.text(st.sampled_from(["\\", *"udcDE9x猫", "\udce9", "\ud800"])))
def test_what_stands_for_bytes_that_are_no_utf8_is_taken_for_no_other_name(name: str) -> None:
    to_utf8(name).encode()
    assert from_utf8(to_utf8(name)) == name


def test_a_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    real, link = tmp_path / "real.parquet", tmp_path / "tags.parquet"
    real.touch(0o640)
    link.symlink_to(real)
    write(link, record())
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert len(pd.read_parquet(real)) == 1


def test_records_are_converted_from_any_form_to_any(tmp_path: Path) -> None:
    first = tmp_path / "tags.jsonl"
    write(first, *several())
    for before, after in zip(ENDINGS, ENDINGS[1:] + ENDINGS[:1], strict=True):
        out = tmp_path / f"new{after}" if after == ".jsonl" else tmp_path / f"tags{after}"
        done = produced("convert", tmp_path / f"tags{before}", "--out", out)
        assert done.returncode == 0, done.stderr
        assert "converted 4 records" in done.stderr
    assert (tmp_path / "new.jsonl").read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--format", "parquet"], "needs a file"),
        (["--format", "xmp", "--out", "x.jsonl"], "leave out --out"),
        (["--out", "tags.doc"], "the ending must be one of"),
        (["--out", "{file}"], "is the input"),
    ],
)
def test_what_cannot_be_converted_is_wrong_usage(
    tmp_path: Path, argv: list[str], reason: str
) -> None:
    file = tmp_path / "tags.jsonl"
    write(file, record())
    done = produced("convert", file, *(word.format(file=file) for word in argv))
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(list(records_of(file))) == 1


def test_records_go_to_standard_output_as_a_table(tmp_path: Path) -> None:
    file = tmp_path / "tags.jsonl"
    write(file, record())
    done = produced("convert", file, "--format", "csv")
    assert done.stdout.splitlines()[0] == ",".join(COLUMNS)
    assert "猫|狗" in done.stdout


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tags.jsonl"
    fields: dict[str, Any] = msgspec.to_builtins(record())
    for name in ("labels", "file", "embedding", "thumbnail"):
        del fields[name]
    file.write_bytes(msgspec.json.encode(fields) + b"\n")
    assert list(records_of(file)) == [record()]
