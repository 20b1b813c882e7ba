"""producer.formats and producer.formats.jsonl"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from records import record

from producer.errors import UnknownFormatError
from producer.formats import check_writable, open_sink, target_of
from producer.formats.jsonl import JsonlSink
from worker.contract.messages import Failure, Record

FIELDS = [
    *("path", "status", "tags", "error", "timing", "batch_size", "worker", "device", "model"),
    *("labels", "file"),
]


def written(*records: Record) -> bytes:
    stream = io.BytesIO()
    with JsonlSink(stream, closes=False) as sink:
        for each in records:
            sink.write(each)
    return stream.getvalue()


def test_a_record_is_one_readable_line_with_its_fields_in_order() -> None:
    line = written(record()).decode("utf-8")
    assert line.endswith("}\n")
    assert "猫.jpg" in line
    found = json.loads(line)
    assert list(found) == FIELDS
    assert found["tags"] == [{"label": "猫", "score": 0.93}, {"label": "狗", "score": 0.033333}]
    assert found["timing"]["queue_ms"] == 1.235
    assert found["timing"]["read_ms"] is None


def test_a_failure_has_its_code_and_sentence() -> None:
    failure = Failure("not_found", "read", "there is no such file")
    found = json.loads(written(record(status="failed", tags=(), error=failure, batch_size=None)))
    assert (found["status"], found["tags"], found["batch_size"]) == ("failed", [], None)
    assert found["error"]["code"] == "not_found"
    assert found["error"]["message"] == "there is no such file"


@pytest.mark.parametrize("name", [b"/\xff\xfe.jpg", b"/a\nb.jpg", b'/"\\.jpg', "/断\u2028行.jpg"])
def test_any_name_comes_back_and_the_file_is_utf8(name: bytes | str) -> None:
    path = os.fsdecode(name)
    data = written(record(path))
    assert data.count(b"\n") == 1
    data.decode("utf-8")
    assert os.fsencode(json.loads(data)["path"]) == os.fsencode(path)


def test_lines_are_in_the_file_once_they_are_flushed(tmp_path: Path) -> None:
    out = tmp_path / "tags.JSONL"
    with open_sink(target_of(out, None)) as sink:
        sink.write(record("/a.jpg"))
        sink.flush()
        assert len(out.read_bytes().splitlines()) == 1
        sink.write(record("/b.jpg"))
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == [
        "/a.jpg",
        "/b.jpg",
    ]


def test_an_unknown_ending_names_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match=r"\.jsonl, \.ndjson"):
        target_of(tmp_path / "tags.doc", None)


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    old.write_text("precious")
    check_writable(old)
    check_writable(new)
    assert old.read_text() == "precious"
    assert not new.exists()
    with pytest.raises(OSError, match="No such file"):
        check_writable(tmp_path / "nowhere" / "tags.jsonl")
