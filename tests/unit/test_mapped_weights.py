"""Weights that lie in the file of a model, in memory once for all processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from worker.engines.mapped_weights import map_weights
from worker.engines.torchscript import load_module

ROWS = torch.linspace(-1, 1, 3 * 256).reshape(3, 256)
# Two layers of one size: the right one of two candidates is to be found.
LAYER_BYTES = 4 * 256 * 256

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


def saved(file: Path, seed: int) -> torch.Tensor:
    """Save a frozen network of two large layers; return what it makes of `ROWS`."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    with torch.inference_mode():
        traced = torch.jit.trace(network, ROWS)  # type: ignore[no-untyped-call]
        torch.jit.save(torch.jit.freeze(traced), str(file))
        found: torch.Tensor = network(ROWS)
    return found


def read(file: Path) -> torch.jit.ScriptModule:
    """Return the network with its weights in memory."""
    module: torch.jit.ScriptModule = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
    return module


def mappings(file: Path) -> int:
    """Return how often a file is mapped into this process."""
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(str(file))


def test_a_loaded_model_computes_with_the_weights_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "image.pt"
    expected = saved(file, 0)
    module = load_module(file, torch.device("cpu"))
    with torch.inference_mode():
        assert torch.equal(module(ROWS), expected)
        assert torch.equal(module(ROWS), expected)
    assert mappings(file) == 1
    del module
    assert mappings(file) == 0


def test_all_large_weights_are_found(tmp_path: Path) -> None:
    file = tmp_path / "image.pt"
    saved(file, 0)
    assert map_weights(read(file), file) == 2 * LAYER_BYTES


def test_a_file_that_holds_other_numbers_changes_nothing(tmp_path: Path) -> None:
    expected = saved(tmp_path / "image.pt", 0)
    saved(tmp_path / "other.pt", 1)
    module = read(tmp_path / "image.pt")
    assert map_weights(module, tmp_path / "other.pt") == 0
    with torch.inference_mode():
        assert torch.equal(module(ROWS), expected)


def test_what_cannot_be_mapped_is_loaded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> torch.UntypedStorage:
        raise RuntimeError

    file = tmp_path / "image.pt"
    expected = saved(file, 0)
    monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    with torch.inference_mode():
        assert torch.equal(load_module(file, torch.device("cpu"))(ROWS), expected)
