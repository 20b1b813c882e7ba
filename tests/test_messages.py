"""worker.contract.messages"""

from __future__ import annotations

import contextlib
import json
import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.messages import (
    Chunk,
    ChunkResult,
    Failure,
    ImageRef,
    ImageResult,
    MessageError,
    Tag,
    Timing,
)

CHUNK = Chunk(
    job="j", seq=3, images=(ImageRef("/照片/猫 1.jpg"), ImageRef("/b", blob="k")), sent_at_s=1.5
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
        wire(v=True) | {"v": None},
        wire(job=7),
        wire(seq="3"),
        wire(images=[]),
        wire(images=[{"path": "/a"}] * 1025),
        wire(images=[{"path": 1}]),
        wire(images=[{"path": "/a", "mode": "x"}]),
        wire(top_k=0),
        wire(threshold=math.nan),
        wire(sent_at_s=math.inf),
        wire(surprise=1),
        {k: v for k, v in wire().items() if k != "sent_at_s"},
    ],
)
def test_what_is_no_chunk_raises_the_one_error(broken: object) -> None:
    with pytest.raises(MessageError):
        Chunk.from_wire(broken)


def test_the_error_of_another_version_names_both() -> None:
    with pytest.raises(MessageError, match="version 2 is not 1"):
        Chunk.from_wire(wire(v=2))


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
