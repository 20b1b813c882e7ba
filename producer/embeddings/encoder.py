"""Labels -> their embeddings, by a child process that loads the model's text tower."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from producer.child import ERROR, WORKER, environment
from worker.contract.encoded import Encoded
from worker.contract.labels import LabelPack
from worker.contract.processes import start_child, stop_child

_STOP_GRACE_S: Final = 5.0


class EncodingError(RuntimeError):
    """The labels cannot be embedded here."""


class Embedded(NamedTuple):
    """What the model says of a label pack; `matrix` is KD, float32, row by row."""

    told: Encoded
    matrix: bytes


class Encoding:
    """Begins on entering the block, so that other work can be done until `result` is asked for."""

    def __init__(self, pack: LabelPack, model: str | None) -> None:
        """Take a pack, and an artifact's place; without one, it is that of WANWU_MODEL."""
        self._pack = pack
        self._words = ["texts", *(["--model", model] if model else [])]
        self._child: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        if not importlib.util.find_spec("torch"):
            msg = (
                "labels are embedded by the model, which needs: pip install 'wanwu-tagger[worker]'"
            )
            raise EncodingError(msg)
        # A file, since a pipe would hold us up until the child has loaded what it reads with.
        with tempfile.TemporaryFile() as pack:
            pack.write(msgspec.json.encode(self._pack))
            pack.seek(0)
            self._child = start_child(
                [*WORKER, *self._words],
                env=environment({}),
                stdin=pack,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stop_child(self._child, _STOP_GRACE_S)

    def result(self) -> Embedded:
        """Return what the child says, as soon as it does.

        Raises:
            EncodingError: with the child's own words.
        """
        out, words = self._child.communicate()
        if self._child.returncode:
            lines = words.decode(errors="replace").strip().splitlines()
            last = lines[-1] if lines else "it ended without a word"
            raise EncodingError(last.removeprefix("Error: ").removeprefix(ERROR))
        head, _, matrix = out.partition(b"\n")
        return Embedded(msgspec.json.decode(head, type=Encoded), matrix)
