"""Artifacts that are sound in every file and yet fail."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import msgspec
import torch
from tiny_model import write_manifest

from worker.artifact.manifest import Artifact, open_artifact


class Raising(torch.nn.Module):
    """Answers blank images, so that it warms up, and raises on all others."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if bool(pixels.any()):
            raise RuntimeError("the graph is broken")  # noqa: EM101, TRY003 - it is compiled
        return torch.ones(pixels.shape[0], self.dim)


def raising(artifact: Artifact, place: Path) -> Artifact:
    """A copy of an artifact whose TorchScript fails at run time."""
    shutil.copytree(artifact.path, place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated.
        script: Any = torch.jit.script(Raising(artifact.manifest.embedding_dim))
    script.save(str(place / "image.pt"))
    return changed(artifact, place)


def changed(artifact: Artifact, place: Path, **fields: Any) -> Artifact:
    """Describe the files at `place` as those of `artifact`, with other fields."""
    manifest = msgspec.to_builtins(artifact.manifest) | fields
    del manifest["files"]
    write_manifest(place, **manifest)
    return open_artifact(place)
