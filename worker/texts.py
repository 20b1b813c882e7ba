"""Labels or sentences on standard input -> their unit embeddings on standard output.

For programs that rank embeddings which they have kept, and load no torch. What comes in is a label
pack as JSON; what goes out a line of JSON, `Encoded`, and a matrix KD of float32, row by row.

Shapes: K labels, D embedding dimensions.
"""

from __future__ import annotations

from typing import IO

import msgspec

from worker.contract.encoded import Encoded
from worker.contract.labels import LabelPack
from worker.contract.settings import Settings
from worker.models.artifact import Artifact
from worker.models.cache import open_model
from worker.models.labels import encoder_of


def encode_texts(settings: Settings, source: IO[bytes], target: IO[bytes]) -> None:
    """Answer the label pack on `source`, with the text tower on the CPU.

    Raises:
        ArtifactError: the model cannot be used.
        LabelsMissingError: the pack is empty and the model has no labels, or it is a classifier
            that does not know them.
        InferenceError: the text tower failed.
        msgspec.MsgspecError: what came in is no label pack.
    """
    pack = msgspec.json.decode(source.read(), type=LabelPack)
    artifact: Artifact = open_model(settings)
    found = encoder_of(artifact, "cpu").encode(pack)
    told = Encoded(
        model=artifact.id,
        kind=artifact.manifest.kind,
        dim=found.matrix_KD.shape[1],
        logit_scale=artifact.manifest.logit_scale,
        labels=found.labels,
        parents=dict(found.parents),
    )
    target.write(msgspec.json.encode(told) + b"\n")
    target.write(found.matrix_KD.tobytes())
    target.flush()
