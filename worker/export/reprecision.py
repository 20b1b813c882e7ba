"""Artifact -> the same artifact in another precision, traced from transformers' own weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import torch

from worker.artifact.manifest import IMAGE_PROGRAM, IMAGE_TOWER, Artifact, artifact_id
from worker.artifact.model_names import MANIFEST
from worker.contract.i18n import gettext_noop as N_
from worker.errors import ExportError
from worker.export.judgement import Judge
from worker.export.second_engine import Trial
from worker.export.tracing import BATCHES, pixels
from worker.export.variant import Jury, variant
from worker.model.original import original_tower
from worker.model.precision import ACCEPTED, Precision, check
from worker.model.rewrite import for_inference
from worker.model.sample import batches_of, sample


def reprecision(
    artifact: Artifact, precision: Precision, directory: Path, device: torch.device
) -> Artifact:
    """Write the artifact in `precision` to `directory`; the files that stay are links.

    Raises:
        ArtifactError: the artifact does not hold transformers' own weights.
        DeviceError: the device does not have this precision.
        ExportError: in this precision it does not agree with the model.
    """
    check(precision, device)
    directory.mkdir(parents=True)
    spec = artifact.manifest.preprocessing
    tower = original_tower(artifact)
    images_NCHW = pixels(max(BATCHES), spec.height, spec.width)
    jury = None if precision == "fp32" else _jury(artifact, tower)
    with torch.no_grad():
        reference_ND = tower(images_NCHW)
    trial = Trial(directory, images_NCHW.to(device), reference_ND, lambda _: None)
    traced_tower = trial.make("torchscript", variant(for_inference(tower), precision, device, jury))
    if not traced_tower.agrees:
        raise ExportError(
            N_("in {precision}, {model} is too far from the model: {trial}"),
            precision=precision,
            model=artifact.id,
            trial=traced_tower,
        )
    manifest = msgspec.structs.replace(
        artifact.manifest,
        precision=precision,
        files=_files(artifact, traced_tower.file, directory),
        engine=None,
        parity=artifact.manifest.parity | traced_tower.parity(),
        speed=traced_tower.speed(),
    )
    body = json.dumps(msgspec.to_builtins(manifest), ensure_ascii=False, indent=1).encode() + b"\n"
    (directory / MANIFEST).write_bytes(body)
    return Artifact(directory, manifest, artifact_id(manifest, body))


def _files(artifact: Artifact, tower: Path, directory: Path) -> dict[str, str]:
    """Move the tower to its place, link the files that stay, and return the digests of all."""
    tower.rename(directory / IMAGE_TOWER)
    # A program is of the other precision, as is what was found of it.
    files = {name: one for name, one in artifact.manifest.files.items() if name != IMAGE_PROGRAM}
    for name in files.keys() - {IMAGE_TOWER}:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to((artifact.path / name).resolve())
    digest = hashlib.sha256((directory / IMAGE_TOWER).read_bytes()).hexdigest()
    return files | {IMAGE_TOWER: digest}


def _jury(artifact: Artifact, tower: Any) -> Jury:
    """Judge by the pictures that ship, by embeddings alone: labels would need the text tower."""
    manifest = artifact.manifest
    pictures = sample(manifest.preprocessing, None)
    with torch.no_grad():
        wanted_ND = torch.cat([tower(batch) for batch in batches_of(pictures.judged_by)])
    judge = Judge(wanted_ND, manifest.scale, None, is_classifier=manifest.kind == "classifier")
    return Jury(pictures, judge, ACCEPTED)
