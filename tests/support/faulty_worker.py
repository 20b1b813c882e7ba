"""The worker, with faults: what kills it, and what ends its inference thread, on demand.

    python tests/support/faulty_worker.py start ...

An image that holds `POISON` ends the process that decodes it: the worker itself, on threads.
`FAULT_FILE` names a file: while it exists, the next batch takes it away and ends the inference
thread, as no engine should. Batches of more than `FITTING_BATCH` images do not fit into the
device's memory. While `HANG_FILE` exists, the model does not answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

import worker.images.decoder
import worker.pipeline.pipeline
from worker.cli import main
from worker.engines.base import Engine, Wait
from worker.engines.infer import launch
from worker.images.decode import decode

POISON: Final = b"a poison of the tests"
EXIT_CODE: Final = 99
_hang = Path(os.environ.get("HANG_FILE") or os.devnull + "/none")
_fault = Path(os.environ.get("FAULT_FILE") or os.devnull + "/none")
_fitting = int(os.environ.get("FITTING_BATCH") or 1000)


def deadly_decode(data: bytes, *arguments: Any, **options: Any) -> Any:
    """Decode, or die."""
    if POISON in data:
        os._exit(EXIT_CODE)
    return decode(data, *arguments, **options)


class Faulty:
    """An engine that fails on demand."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def launch(self, pixels_NCHW: torch.Tensor) -> Wait:
        """Launch, or end the thread, or hang, or have too little memory."""
        if _fault.exists():
            _fault.unlink()
            raise SystemExit
        while _hang.exists():
            time.sleep(0.05)
        if len(pixels_NCHW) > _fitting and pixels_NCHW.any():
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
            raise torch.OutOfMemoryError(msg)
        return self._engine.launch(pixels_NCHW)


def faulty_launch(engine: Engine, pixels_CHW: Sequence[Any]) -> Callable[[], Any]:
    """Launch on the engine, with its faults."""
    return launch(Faulty(engine), pixels_CHW)  # type: ignore[arg-type]


if __name__ == "__main__":
    vars(worker.images.decoder).update(decode=deadly_decode)
    vars(worker.pipeline.pipeline).update(launch=faulty_launch)
    main()
