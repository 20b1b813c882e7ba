"""A fault of ours in a decode process: its image fails, and the worker's log says where."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
from images import encoded, picture

from worker.artifact.manifest import Preprocessing
from worker.contract.settings import IMAGE_FORMATS
from worker.errors import ReportedError
from worker.images.decoder import DecodeConfig, DecodeRequest
from worker.images.isolated.member import Member
from worker.images.isolated.process import MAX_TRACEBACK_CHARS, DecodeProcess
from worker.images.isolated.wire import Progress


def config(root: Path) -> DecodeConfig:
    return DecodeConfig(
        preprocessing=Preprocessing(height=16, width=24),
        roots=(os.fsencode(root),),
        formats=IMAGE_FORMATS,
        max_file_bytes=10**6,
        max_pixels=10**6,
        jpeg_max_side=0,
        fast=False,
        decoders=1,
        memory_bytes=10**9,
    )


class Wires:
    """What is between a worker and a decode process: one order, and the reply."""

    def __init__(self) -> None:
        self.reply = b""
        self.orders = [b""]
        self.progress = Progress(0.0, 0, 0)
        self.shared: Any = SimpleNamespace(
            put=self.put, note=self.note, progress=lambda: self.progress
        )
        self.replies = SimpleNamespace(recv_bytes=lambda: self.reply)
        self.pid = os.getpid()

    def put(self, _slot: int, _pixels_CHW: object) -> None:
        raise AttributeError("x" * 2 * MAX_TRACEBACK_CHARS)

    def note(self, progress: Progress) -> None:
        self.progress = progress

    def send(self, message: bytes, _handles: list[int]) -> None:
        self.orders.insert(0, message)

    def recvmsg(self, *_: object) -> tuple[bytes, list[object], int, None]:
        return self.orders.pop(0), [], 0, None

    def answer(self, reply: bytes) -> None:
        self.reply = reply


def test_a_fault_of_ours_is_in_the_log_of_the_worker(tmp_path: Path) -> None:
    file = tmp_path / "照片.png"
    file.write_bytes(encoded(picture(1), "PNG"))
    wires: Any = Wires()
    member = Member(wires, urgent_only=False)
    member.send([DecodeRequest(lambda _: None, path=os.fsencode(file))])
    DecodeProcess(config(tmp_path), wires, wires.answer, wires.shared, -1).run()
    with structlog.testing.capture_logs() as logged:
        (done,), put_back = member.receive()
    assert not put_back
    assert isinstance(done.error, ReportedError)
    assert done.error.failure().code == "internal_error"
    (entry,) = logged
    assert (entry["event"], entry["path"]) == ("decode.unexpected", str(file))
    assert len(entry["traceback"]) == MAX_TRACEBACK_CHARS
