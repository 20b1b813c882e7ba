"""worker.contract.messages"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract import messages
from worker.contract.messages import (
    Chunk,
    ChunkResult,
    Failure,
    ImageRef,
    ImageResult,
    MessageError,
    NewerVersionError,
    Part,
    Tag,
    Timing,
    Wire,
    split_task_id,
)

CHUNK = Chunk(
    job="j",
    seq=3,
    images=(ImageRef("/照片/猫 1.jpg"), ImageRef("/b", blob="wanwu:blob:j-3:1")),
    sent_at_s=1.5,
)


def wire(**changes: Any) -> dict[str, Any]:
    return CHUNK.to_wire() | changes


def test_a_chunk_survives_json() -> None:
    assert Chunk.from_wire(json.loads(json.dumps(CHUNK.to_wire()))) == CHUNK


def test_a_result_survives_json() -> None:
    result = ChunkResult(
        job="j",
        seq=3,
        worker="w",
        device="cpu",
        model="m@1",
        images=(
            ImageResult(
                path="/a", tags=(Tag("猫", 0.9),), timing=Timing(read_ms=1.0), batch_size=4
            ),
            ImageResult(path="/b", error=Failure("not_an_image", "decode", "No image.")),
        ),
    )
    assert ChunkResult.from_wire(json.loads(json.dumps(result.to_wire()))) == result
    assert result.failed == 1
    assert [record.status for record in result.records()] == ["ok", "failed"]


def test_a_name_that_is_no_utf8_survives_json() -> None:
    path = os.fsdecode(b"/\xff\xfe.jpg")
    sent = Chunk(job="j", seq=0, images=(ImageRef(path),), sent_at_s=0.0)
    (image,) = Chunk.from_wire(json.loads(json.dumps(sent.to_wire()))).images
    assert os.fsencode(image.path) == b"/\xff\xfe.jpg"


def test_the_task_id_follows_from_job_and_number() -> None:
    assert CHUNK.task_id == "j-3"


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "chunk",
        {},
        wire(v=2),
        wire(v="1"),
        wire(v=True),
        wire(v=None),
        wire(v=0),
        wire(job=7),
        wire(seq="3"),
        wire(images=[]),
        wire(images=[{"path": "/a"}] * 1025),
        wire(images=[{"path": 1}]),
        wire(top_k=0),
        wire(threshold=math.nan),
        wire(sent_at_s=math.inf),
        wire(job=""),
        wire(job="j\n"),
        wire(job="../j"),
        wire(job="j" * 65),
        wire(seq=-1),
        wire(seq=2**27),
        wire(labels="x"),
        wire(labels="0" * 16 + "\n"),
        wire(images=[{"path": ""}]),
        wire(images=[{"path": "a" * 32_769}]),
        wire(images=[{"path": "/a", "blob": "wanwu:jobs"}]),
        wire(images=[{"path": "/a", "blob": "wanwu:blob:j-30:0"}]),
        wire(images=[{"path": "/a", "blob": "wanwu:blob:j-3:0\n"}]),
        wire(images=[{"path": "/a", "error": {"code": "x" * 65, "stage": "read", "message": ""}}]),
        wire(images=[{"path": "/a", "error": {"code": "x", "stage": "never", "message": ""}}]),
        wire(sent_at_s=10**400),
        wire(v="9" * 10**6),
        {k: v for k, v in wire().items() if k != "sent_at_s"},
    ],
)
def test_what_is_no_chunk_raises_the_one_error(broken: object) -> None:
    with pytest.raises(MessageError):
        Chunk.from_wire(broken)


def test_the_error_is_short_whatever_the_message() -> None:
    for broken in (wire(v="9" * 10**6), wire(job="j" * 10**6), {"v": 1, "x" * 10**6: 1}):
        with pytest.raises(MessageError) as caught:
            Chunk.from_wire(broken)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "place"),
    [("20261123-181502-5f3a9c-12", ("20261123-181502-5f3a9c", 12)), ("x", None), ("a b-1", None)],
)
def test_a_task_id_tells_job_and_number(name: str, place: tuple[str, int] | None) -> None:
    assert split_task_id(name) == place


def test_the_error_of_another_version_names_both() -> None:
    with pytest.raises(NewerVersionError, match="version 2 is not 1"):
        Chunk.from_wire(wire(v=2))


def test_fields_of_a_later_program_are_passed_over() -> None:
    image = {"path": "/a", "mode": "x", "part": {"offset": 1, "size_bytes": 2, "more": 3}}
    chunk = Chunk.from_wire(wire(surprise=1, images=[image]))
    assert chunk.images == (ImageRef("/a", part=Part(1, 2)),)


def test_no_two_threads_meet_a_type_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That ends the process: msgspec finds out then what the type consists of."""

    class Fresh(Wire, frozen=True, kw_only=True):
        x: int

    convert, met, begin = msgspec.convert, list[str](), threading.Barrier(4)

    def slow(content: Any, kind: Any) -> Any:
        met.append("begins")
        time.sleep(0.02)
        met.append("ends")
        return convert(content, kind)

    def meet() -> None:
        begin.wait()
        messages._meet(Fresh)

    monkeypatch.setattr(msgspec, "convert", slow)
    threads = [threading.Thread(target=meet) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == ["begins", "ends"] * (len(met) // 2)
    assert Fresh.from_wire({"v": 1, "x": 2}).x == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    changes=st.dictionaries(st.sampled_from([*CHUNK.to_wire(), "other"]), json_values, max_size=4)
)
def test_no_message_raises_anything_else(changes: dict[str, Any]) -> None:
    with contextlib.suppress(MessageError):
        Chunk.from_wire(wire(**changes))
