"""Model -> the labels that it tags with where none are given: its own, or a vocabulary."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from worker.artifact.manifest import Artifact, Manifest
from worker.contract.i18n import gettext_noop as N_
from worker.contract.labels import LabelPack, LabelsError, parse_labels
from worker.contract.local.files import read_regular
from worker.contract.vocabularies import Vocabulary, find_vocabulary
from worker.errors import ArtifactError, LabelsMissingError

_MOST_LABEL_BYTES: Final = 16 * 1024 * 1024
# What Chinese models have where they bring no labels.
_VOCABULARY: Final = "general"
_CHINESE: Final = re.compile("[\u4e00-\u9fff]")
# Japanese is written with the same characters, but not with them alone.
_JAPANESE: Final = re.compile("[\u3040-\u30ff]")


class UsedVocabulary(NamedTuple):
    """The vocabulary that stands for a model's own labels: its name, or "" if none does.

    `labels` of it are used; of those `left_out` the model can read nothing, or not tell them from
    others.
    """

    name: str = ""
    labels: int = 0
    left_out: int = 0


def own_pack(artifact: Artifact, templates: tuple[str, ...] = ()) -> LabelPack:
    """Return the label set of a model that is given none.

    It is the one that the model came with. A Chinese model without one has a vocabulary, whole:
    its encoder leaves out what it cannot read.

    Raises:
        LabelsMissingError: it has none.
        ArtifactError: its label file cannot be used.
    """
    manifest = artifact.manifest
    if manifest.labels is None:
        vocabulary = vocabulary_of(manifest)
        if vocabulary is None:
            raise LabelsMissingError
        return msgspec.structs.replace(labels_of(vocabulary), templates=templates)
    try:
        return _read(artifact, manifest.labels, templates)
    except (LabelsError, OSError, UnicodeError) as e:
        raise ArtifactError(
            N_("{name} of model {model}: {reason}"),
            name=manifest.labels,
            model=artifact.id,
            reason=e,
        ) from e


def vocabulary_of(manifest: Manifest) -> Vocabulary | None:
    """Return the vocabulary of a model without labels of its own that reads Chinese, else None.

    Whether it does is seen by its prompt.

    Raises:
        ArtifactError: the vocabulary's file cannot be used.
    """
    reads_chinese = _CHINESE.search(manifest.template) and not _JAPANESE.search(manifest.template)
    if manifest.labels or manifest.kind != "zero-shot" or manifest.lexicon or not reads_chinese:
        return None
    try:
        return find_vocabulary(_VOCABULARY)
    except LabelsError as e:
        raise ArtifactError(e) from e


def labels_of(vocabulary: Vocabulary) -> LabelPack:
    """Return the labels of the vocabulary that a model uses.

    Raises:
        ArtifactError: its file cannot be used.
    """
    try:
        return vocabulary.read_pack()
    except LabelsError as e:
        raise ArtifactError(e) from e


def _read(artifact: Artifact, name: str, templates: tuple[str, ...]) -> LabelPack:
    text = read_regular(artifact.file(name), _MOST_LABEL_BYTES).decode().replace("\r\n", "\n")
    if artifact.manifest.kind == "classifier":
        # Names from elsewhere: signs of our label files mean nothing in them.
        return LabelPack(tuple(text.split("\n")[:-1]))
    pack = parse_labels(text)
    # The manifest knows what lies above the parents.
    parents = artifact.manifest.kinds | pack.parents
    return msgspec.structs.replace(pack, templates=templates, parents=parents)
