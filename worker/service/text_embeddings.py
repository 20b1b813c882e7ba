"""Labels or sentences on standard input -> their unit embeddings on standard output.

For programs that rank stored embeddings without torch. The input is a label pack as JSON; the
output is a line of JSON, `Encoded`, and matrices of float32, row by row: KD, and JD and JK if the
pack is calibrated, and MD and KM if the labels have kinds.

Shapes: K labels, M kinds, J background words, D embedding dimensions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import IO, Any

import msgspec
from celery.worker.control import inspect_command

from worker.artifact.manifest import Artifact
from worker.contract.labels import LabelPack, LabelsError
from worker.contract.settings import Settings
from worker.contract.text_embeddings import ENCODE, MOST_TEXTS, Encoded
from worker.engines.base import use_threads
from worker.errors import TaggerError
from worker.export.on_first_use import open_model
from worker.labels.disk_store import DiskLabelMatrixStore
from worker.labels.encoder import encoder_of
from worker.labels.label_sets import LabelSet
from worker.labels.matrix_store import NoLabelMatrixStore


def encode_texts(settings: Settings, source: IO[bytes], target: IO[bytes]) -> None:
    """Write the embeddings of the label pack on `source`, with the text tower on the CPU.

    Raises:
        ArtifactError: the model cannot be used.
        LabelsMissingError: the pack is empty and the model has no labels, or it is a classifier
            that does not know them.
        InferenceError: the text tower failed.
        msgspec.MsgspecError: what came in is no label pack.
    """
    use_threads(settings)
    pack = msgspec.json.decode(source.read(), type=LabelPack)
    artifact: Artifact = open_model(settings)
    matrix_store = DiskLabelMatrixStore(NoLabelMatrixStore())
    found = encoder_of(artifact, "cpu", matrix_store).encode(pack)
    description, matrices = encoded(artifact, found)
    target.write(msgspec.json.encode(description) + b"\n" + matrices)
    target.flush()


def encoded(artifact: Artifact, found: LabelSet) -> tuple[Encoded, bytes]:
    """Return a label set as this program writes it: its description, and its matrices."""
    description = Encoded(
        model=artifact.id,
        kind=artifact.manifest.kind,
        dim=found.matrix_KD.shape[1],
        logit_scale=artifact.manifest.logit_scale,
        logit_bias=artifact.manifest.logit_bias,
        labels=found.labels,
        parents=dict(found.parents),
        background=len(found.background.matrix_JD) if found.background else 0,
        kinds=found.kinds.names if found.kinds else (),
    )
    of_kinds = found.kinds[1:] if found.kinds else ()
    matrices = (found.matrix_KD, *(found.background or ()), *of_kinds)
    return description, b"".join(matrix.tobytes() for matrix in matrices)


def answers_texts(label_set: Callable[[LabelPack], LabelSet], artifact: Artifact) -> None:
    """Let this worker answer, by Celery's remote control, with the embeddings of a few texts.

    It is the main thread that answers, so a text takes some milliseconds from the chunks; many are
    refused.
    """

    def encode(_state: object, pack: Any) -> dict[str, Any]:
        try:
            found = msgspec.convert(pack, LabelPack)
            if not 1 <= len(found.labels) <= MOST_TEXTS or found.calibrated:
                return {"error": f"a worker encodes 1 to {MOST_TEXTS} texts"}
            description, matrix = encoded(artifact, label_set(found))
        except (TaggerError, LabelsError, msgspec.ValidationError) as e:
            return {"error": str(e)}
        return {
            "encoded": msgspec.to_builtins(description),
            "matrix": base64.b64encode(matrix).decode(),
        }

    inspect_command(name=ENCODE)(encode)
