"""Label pack -> a choice among the classes of a classifier.

Shapes: K labels, D logits.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from worker.artifact.manifest import Artifact
from worker.contract.i18n import gettext_noop as N_
from worker.contract.label_check import LabelCheck
from worker.contract.labels import LabelPack
from worker.errors import ArtifactError, LabelsMissingError
from worker.labels.label_sets import LabelSet
from worker.labels.own_labels import UsedVocabulary, own_pack


class Classes:
    """The labels of a classifier: label k is logit k, and a set is a choice among them."""

    def __init__(self, artifact: Artifact) -> None:
        """Read them.

        Raises:
            ArtifactError: there are more or fewer than logits.
        """
        self._labels = own_pack(artifact).labels
        self._dim = artifact.manifest.embedding_dim
        if len(self._labels) != self._dim:
            raise ArtifactError(
                N_("model {model} has {logits} logits for {labels} labels"),
                model=artifact.id,
                logits=self._dim,
                labels=len(self._labels),
            )
        self._rows = {label: k for k, label in enumerate(self._labels)}

    def encode(self, pack: LabelPack) -> LabelSet:
        """Return the classes that the pack names, or all; templates mean nothing here.

        Raises:
            LabelsMissingError: it names one that the model does not know.
        """
        if pack.calibrated:
            msg = "the model is a classifier: it has no words to calibrate its scores by"
            raise LabelsMissingError(msg)
        labels = pack.labels or self._labels
        if unknown := [label for label in labels if label not in self._rows]:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            msg = f"the model is a classifier that does not know {unknown[0]!r}{more}"
            raise LabelsMissingError(msg)
        matrix_KD = np.zeros((len(labels), self._dim), np.float32)
        matrix_KD[range(len(labels)), [self._rows[label] for label in labels]] = 1
        return LabelSet(labels, matrix_KD, MappingProxyType(pack.parents))

    def check(self, pack: LabelPack) -> LabelCheck:
        """Return whether the model knows all classes that the pack names."""
        try:
            self.encode(pack)
        except LabelsMissingError as e:
            return LabelCheck(reason=str(e))
        return LabelCheck()

    def vocabulary(self) -> UsedVocabulary:
        """Return none: a classifier has its classes."""
        return UsedVocabulary()
