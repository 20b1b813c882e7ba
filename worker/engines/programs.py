"""Module -> an exported program in a `.pt2` file -> what runs it again, without TorchScript.

Shapes: N images or texts, L tokens.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from worker.contract.i18n import gettext_noop as N_
from worker.engines.pack_int8 import pack_program
from worker.engines.program_check import check_program
from worker.engines.saving import write
from worker.errors import ArtifactError, ExportError

# Upstream promises nothing of TorchScript from Python 3.14 on. With torch 2.15 files still load and
# run there, but nothing new should be made so.
HAS_TORCHSCRIPT: Final = sys.version_info < (3, 14)
_EXAMPLES: Final = 2

Program = Callable[..., Tensor]


def save_program(tower: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> None:
    """Export a tower for any number of rows, on the device where it lies, and write it to `file`.

    Of texts, NL, any number of tokens will do if the tower has no number of its own.

    Raises:
        ExportError: it cannot be exported.
        OSError: the file cannot be written.
    """
    examples = tuple(rows[:_EXAMPLES] for rows in inputs)
    free = tuple(_free_dimensions(rows) for rows in examples)
    with torch.no_grad(), _quietly():
        try:
            _describe_operations()
            program = torch.export.export(tower.eval(), examples, dynamic_shapes=free)
            for node in program.graph.nodes:
                # Lines of source, with paths of this machine.
                node.meta.pop("stack_trace", None)
        except Exception as e:
            # It runs the model's own code, which raises what it likes.
            line = next((one.strip() for one in str(e).splitlines() if one.strip()), repr(e))
            raise ExportError(
                N_("{file} cannot be exported: {reason}"), file=file.name, reason=line
            ) from e
        write(partial(torch.export.save, program), file)


def load_program(file: Path, device: torch.device) -> Program:
    """Load an exported program onto `device`, ready for inference, wherever it was exported.

    Raises:
        ArtifactError: this torch cannot load it, or it holds more than a model's computation.
    """
    check_program(file)
    try:
        with _quietly():
            _describe_operations()
            program = torch.export.load(file)
            if device != torch.device("cpu") or _lies_elsewhere(program):
                program = move_to_device_pass(program, device)
            # What the file says of shapes would be run as Python.
            module: Any = pack_program(program.module(check_guards=False))
    except Exception as e:
        reason = next((one.strip() for one in str(e).splitlines() if one.strip()), repr(e))
        raise ArtifactError(
            N_("torch {version} cannot load {file} of the model: {reason}"),
            version=torch.__version__,
            file=file.name,
            reason=reason,
        ) from e
    laid_out: Program = channels_last(module)
    return laid_out


def channels_last(module: Any) -> Any:
    """Lay the weights of convolutions out as oneDNN wants them, in place.

    ResNet-50 takes 0.94 times as long so.
    """
    for name, weight in module.named_parameters():
        if weight.ndim == 4:  # noqa: PLR2004 - a convolution's
            parent, _, own = name.rpartition(".")
            laid_out = weight.detach().contiguous(memory_format=torch.channels_last)
            kept = nn.Parameter(laid_out, requires_grad=False)
            setattr(module.get_submodule(parent), own, kept)
    return module


def convolutions(program: Program) -> int:
    """Return how many convolutions a loaded program has."""
    graph: Any = getattr(program, "graph", None)
    nodes = () if graph is None else graph.nodes
    return sum(str(node.target).startswith("aten.conv") for node in nodes)


@cache
def _describe_operations() -> None:
    """Say what an operation of oneDNN gives, which torch 2.15 does not know before it has run."""
    torch.library.register_fake("onednn::qconv_prepack", _like_a_weight, allow_override=True)


def _like_a_weight(weight: Tensor, *_others: Any) -> Tensor:
    return torch.empty_like(weight)


def _free_dimensions(rows: Tensor) -> dict[int, Any]:
    free: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if rows.ndim == 2:  # noqa: PLR2004 - token ids or a mask, NL
        free[1] = torch.export.Dim.AUTO
    return free


def _lies_elsewhere(program: Any) -> bool:
    return any(one.device.type != "cpu" for one in program.state_dict.values())


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what torch says of its own code, and to developers."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export")]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
