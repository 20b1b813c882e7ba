"""transformers model <-> the files of an artifact from which transformers can load it again.

TorchScript keeps no module that could run without TorchScript: this is what the eager engine, the
other engines and the benchmark start from. Shapes: C channels, H x W pixels.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError
from torch import nn

from worker.artifact.manifest import ORIGINAL, Artifact
from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.errors import ArtifactError, ExportError
from worker.model import concepts
from worker.model.hub import load_model, quiet
from worker.model.towers import ClassifierTower, ConceptTower, ImageTower

_CONFIG: Final = "config.json"
_HALVES: Final = (torch.float16, torch.bfloat16)


def keep(model: Any, directory: Path) -> None:
    """Write the model to an artifact's directory, in 16 bits where that loses nothing.

    Raises:
        ExportError: it cannot be written.
    """
    if isinstance(model, concepts.ConceptModel):
        concepts.save(model, directory / ORIGINAL)
        return
    dtype = next((half for half in _HALVES if _survives(model, half)), None)
    smallest = copy.deepcopy(model).to(dtype) if dtype else model
    quiet()
    try:
        smallest.save_pretrained(directory / ORIGINAL)
    except SafetensorError as e:
        full = Message(N_("the disk is full"))
        raise ExportError(
            N_("the weights cannot be written to {directory}: {reason}"),
            directory=directory,
            reason=full if "No space left" in str(e) else e,
        ) from e
    for file in (directory / ORIGINAL).iterdir():
        # safetensors writes for its owner alone; workers run as other users.
        file.chmod(0o644)


def original_model(artifact: Artifact) -> Any:
    """Return transformers' own model, both towers, in float32 on the CPU.

    Raises:
        ArtifactError: the artifact does not hold it, or transformers cannot load it.
    """
    name = f"{ORIGINAL}/{_CONFIG}"
    if name not in artifact.manifest.files:
        raise ArtifactError(
            N_("model {model} holds no {name}, which only TorchScript can do without"),
            model=artifact.id,
            name=name,
        )
    if concepts.is_one(artifact.path / ORIGINAL):
        return _concepts(artifact)
    try:
        return load_model(artifact.path / ORIGINAL, artifact.id)
    except ExportError as e:
        raise ArtifactError(e) from e


def _concepts(artifact: Artifact) -> concepts.ConceptModel:
    try:
        return concepts.load(artifact.path / ORIGINAL)
    except (OSError, RuntimeError, SafetensorError, msgspec.MsgspecError) as e:
        raise ArtifactError(
            N_("{file} of model {model} cannot be loaded: {reason}"),
            file=ORIGINAL,
            model=artifact.id,
            reason=e,
        ) from e


def original_tower(artifact: Artifact) -> Any:
    """Return transformers' own image tower: uint8 NCHW -> float32 rows, as the artifact's.

    Raises:
        ArtifactError: as `original_model`.
    """
    return image_tower(artifact, original_model(artifact))


def image_tower(artifact: Artifact, model: Any) -> Any:
    """Return the image tower of a model that was loaded from the artifact."""
    manifest = artifact.manifest
    kind: type[nn.Module] = ClassifierTower if manifest.kind == "classifier" else ImageTower
    if isinstance(model, concepts.ConceptModel):
        kind = ConceptTower
    tower = kind(model, manifest.preprocessing.mean, manifest.preprocessing.std)
    return tower.eval().requires_grad_(requires_grad=False)


def _survives(model: nn.Module, half: torch.dtype) -> bool:
    floats = (one for one in model.state_dict().values() if one.is_floating_point())
    return all(torch.equal(one, one.to(half).to(one.dtype)) for one in floats)
