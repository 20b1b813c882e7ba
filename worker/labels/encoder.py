"""Label pack + text tower -> label matrix, once per label set and never per image.

Shapes: K labels, J background words, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.ancestors import ancestors_of
from worker.contract.label_check import LabelCheck, named, named_groups
from worker.contract.labels import PLACEHOLDER, LabelPack
from worker.contract.scoring import Background, Kinds
from worker.contract.text_embeddings import MOST_TEXTS
from worker.errors import LabelsAlikeError, LabelsMissingError
from worker.labels.classes import Classes
from worker.labels.distinct import LabelReader, alike_embeddings, without
from worker.labels.label_sets import LabelSet, Matrix
from worker.labels.matrix_store import LabelMatrixStore, NoLabelMatrixStore
from worker.labels.own_labels import UsedVocabulary, labels_of, own_pack, vocabulary_of
from worker.labels.text_tower import OnProgress, TextEmbedder, unit

Flags = npt.NDArray[np.bool_]

# Texts so near to each other mean the same, such as a label and its plural.
_SAME_MEANING: Final = 0.95


class Encoder(Protocol):
    """What makes a label set of a label pack. Several threads may ask at once."""

    def encode(self, pack: LabelPack) -> LabelSet:
        """Return the pack's label set; what the pack leaves open is filled in from the model."""

    def check(self, pack: LabelPack) -> LabelCheck:
        """Return what the model makes of the pack's labels, as far as can be seen at once."""

    def vocabulary(self) -> UsedVocabulary:
        """Return the vocabulary that stands for labels of the model's own, if one does."""


def encoder_of(
    artifact: Artifact,
    device: str,
    matrix_store: LabelMatrixStore | None = None,
    on_progress: OnProgress = lambda: None,
) -> Encoder:
    """Return the encoder of a model: by its text tower, or by its fixed classes.

    Of a large set `on_progress` is called many times while it is encoded.

    Raises:
        ArtifactError: a file of the model cannot be used.
    """
    if artifact.manifest.kind == "classifier":
        return Classes(artifact)
    return LabelEncoder(artifact, device, matrix_store, on_progress)


class LabelEncoder:
    """Label sets of a zero-shot model: from the matrix store, else by its text tower."""

    def __init__(
        self,
        artifact: Artifact,
        device: str,
        matrix_store: LabelMatrixStore | None = None,
        on_progress: OnProgress = lambda: None,
    ) -> None:
        """Take the store in which matrices are shared with other workers, if there is one.

        Of a large set `on_progress` is called many times while it is encoded.

        Raises:
            ArtifactError: the tokenizer cannot be loaded.
        """
        self._artifact = artifact
        if matrix_store is None or artifact.manifest.lexicon:
            # Words of a lexicon are looked up: sooner done than a matrix of megabytes is fetched.
            matrix_store = NoLabelMatrixStore()
        self._matrix_store = matrix_store
        self._texts = TextEmbedder(artifact, device, on_progress)
        self._reader = LabelReader(self._texts.tokenizer, is_lexicon=artifact.manifest.lexicon)

    def encode(self, pack: LabelPack) -> LabelSet:
        """Return the pack's label set; what the pack leaves open is filled in from the model.

        Raises:
            LabelsMissingError: the pack is empty and the model has no labels of its own.
            LabelsAlikeError: the model cannot tell the pack's labels apart, or can read no word of
                its background.
            InferenceError: the text tower failed.
            ArtifactError: the text tower cannot be loaded.
            redis.RedisError: the matrix store cannot be reached.
        """
        given = pack if pack.labels else own_pack(self._artifact, pack.templates)
        full = given if pack.labels else self._fit(given)
        if pack.labels:
            _refuse(self._read(pack))
        # Of a vocabulary, which may change, it is the labels that count. Prompts of a request are
        # forgotten with its pack, whose hash the key then ends in.
        key = full.hash if pack.labels or not pack.templates else f"{full.hash}:{pack.hash}"
        matrix_KD = self._stored(f"{self._artifact.id}:{key}", full)
        if pack.labels:
            _refuse(LabelCheck(alike=named_groups(alike_embeddings(full.labels, matrix_KD))))
        elif not self._artifact.manifest.labels:
            full, matrix_KD = _told_apart(full, matrix_KD)
        left_out = len(given.labels) - len(full.labels)
        background = None
        if pack.calibrated:
            others, unread = self._background(pack)
            _refuse(_of_background(others, unread))
            background = self._compared(full, matrix_KD, others)
            left_out += len(unread)
        has_kinds = not pack.labels and self._artifact.manifest.kinds
        kinds = self._kinds(full, matrix_KD) if has_kinds else None
        parents = MappingProxyType(full.parents)
        return LabelSet(full.labels, matrix_KD, parents, background, kinds, left_out)

    def check(self, pack: LabelPack) -> LabelCheck:
        """Return what the tokenizer makes of the pack's words and, of a few labels, the tower."""
        found = self._read(pack)
        if pack.calibrated:
            lost = _of_background(*self._background(pack))
            found = msgspec.structs.replace(
                found, background=lost.background, has_background=lost.has_background
            )
        prompts = (len(pack.labels) + sum(map(len, pack.aliases.values()))) * len(
            self._templates(pack)
        )
        if found.refusals or not 0 < prompts <= MOST_TEXTS:
            return found
        groups = alike_embeddings(pack.labels, self._matrix(pack, self._templates(pack)))
        return msgspec.structs.replace(found, alike=named_groups(groups))

    def vocabulary(self) -> UsedVocabulary:
        """Return what the tokenizer can read of the vocabulary that the model has for labels."""
        found = vocabulary_of(self._artifact.manifest)
        if found is None:
            return UsedVocabulary()
        every = labels_of(found)
        labels = len(self._reader.fit(every, self._templates(every)).labels)
        return (
            UsedVocabulary(found.name, labels, len(every.labels) - labels)
            if labels
            else UsedVocabulary()
        )

    def _fit(self, own: LabelPack) -> LabelPack:
        """Return the model's own labels; of a vocabulary, those that it can read."""
        if self._artifact.manifest.labels:
            return own
        found = self._reader.fit(own, self._templates(own))
        if not found.labels:
            msg = "the model has no labels of its own, and can read no word of the vocabulary"
            raise LabelsMissingError(msg)
        return found

    def _compared(self, full: LabelPack, matrix_KD: Matrix, others: LabelPack) -> Background:
        matrix_JD = self._stored(f"{self._artifact.id}:{others.hash}", others)
        apart_JK = _apart(full, matrix_KD, others, matrix_JD)
        apart_JK[self._kin(others, matrix_JD, matrix_KD)] = 0
        return Background(matrix_JD, apart_JK)

    def _kinds(self, own: LabelPack, matrix_KD: Matrix) -> Kinds:
        """Return what stands above the model's own labels."""
        kinds = LabelPack(tuple(dict.fromkeys(own.parents.values())))
        matrix_MD = self._stored(f"{self._artifact.id}:{kinds.hash}", kinds)
        same_KM = _same(matrix_KD, matrix_MD) > 0
        kin_KM = self._kin(own, matrix_KD, matrix_MD) | same_KM
        return Kinds(kinds.labels, matrix_MD, (~kin_KM).astype(np.float32))

    def _read(self, pack: LabelPack) -> LabelCheck:
        return self._reader.check(pack, self._templates(pack))

    def _templates(self, pack: LabelPack) -> tuple[str, ...]:
        return self._artifact.manifest.prompts(pack.templates)

    def _stored(self, key: str, pack: LabelPack) -> Matrix:
        templates = self._templates(pack)
        shape = (len(pack.labels), self._artifact.manifest.embedding_dim)
        return self._matrix_store.get(key, shape, lambda: self._matrix(pack, templates))

    def _background(self, pack: LabelPack) -> tuple[LabelPack, list[str]]:
        """Return the background of a pack: its own, the model's labels, or those shipped here.

        Words of it that cannot be read are left out, and returned with it.
        """
        others = LabelPack(pack.background, pack.templates)
        if not pack.background:
            named = self._artifact if self._artifact.manifest.labels else open_artifact()
            own = own_pack(named)
            others = LabelPack(own.labels, pack.templates, parents=own.parents)
        # All that cannot be read have the same embedding, which would weigh as much as they are.
        unread = self._reader.unread(others)
        return without(others, set(unread)), unread

    def _kin(self, others: LabelPack, matrix_JD: Matrix, matrix_KD: Matrix) -> Flags:
        """Return for each background word whether it is a kind of a label, or a label of it, JK.

        Whatever word is used: what counts are the embeddings of the background's parents.
        """
        lines = [ancestors_of(label, others.parents) for label in others.labels]
        above = LabelPack(tuple(dict.fromkeys(name for line in lines for name in line)))
        if not above.labels:
            return np.zeros((len(matrix_JD), len(matrix_KD)), bool)
        matrix_AD = self._stored(f"{self._artifact.id}:{above.hash}", above)
        places = {name: number for number, name in enumerate(above.labels)}
        member_JA = np.zeros((len(lines), len(places)), np.float32)
        for number, line in enumerate(lines):
            member_JA[number, [places[name] for name in line]] = 1
        below_JK = member_JA @ _same(matrix_AD, matrix_KD)
        above_JK = _same(matrix_JD, matrix_AD) @ (member_JA.T @ _same(matrix_JD, matrix_KD))
        kin_JK: Flags = (below_JK + above_JK) > 0
        return kin_JK

    def _matrix(self, pack: LabelPack, templates: Sequence[str]) -> Matrix:
        """Return unit embeddings KD: each the mean over templates, then over label and aliases.

        Of a lexicon each word is a thing of its own: the first that it knows counts.
        """
        owners: list[int] = []
        texts: list[str] = []
        for k, label in enumerate(pack.labels):
            names = (label, *pack.aliases.get(label, ()))
            if self._artifact.manifest.lexicon:
                names = self._reader.first_known(names)
            owners += [k] * len(names)
            texts += names
        embedded = [
            self._texts.embed([template.replace(PLACEHOLDER, text) for text in texts])
            for template in templates
        ]
        total_KD = np.zeros((len(pack.labels), self._artifact.manifest.embedding_dim), np.float32)
        np.add.at(total_KD, owners, unit(np.sum(embedded, axis=0)))
        return unit(total_KD)


def _same(one_ND: Matrix, other_MD: Matrix) -> Matrix:
    """Return 1 where two embeddings mean the same, else 0, NM."""
    return (one_ND @ other_MD.T >= _SAME_MEANING).astype(np.float32)


def _refuse(check: LabelCheck) -> None:
    if refusals := check.refusals:
        raise LabelsAlikeError("; ".join(sentence.english for sentence in refusals))


def _of_background(others: LabelPack, unread: list[str]) -> LabelCheck:
    return LabelCheck(background=named(unread), has_background=bool(others.labels))


def _told_apart(pack: LabelPack, matrix_KD: Matrix) -> tuple[LabelPack, Matrix]:
    """Return labels and rows, of those with the same embedding the first."""
    groups = alike_embeddings(pack.labels, matrix_KD)
    lost = {label for group in groups for label in group[1:]}
    kept = [k for k, label in enumerate(pack.labels) if label not in lost]
    return without(pack, lost), matrix_KD[kept]


def _apart(labels: LabelPack, matrix_KD: Matrix, others: LabelPack, matrix_JD: Matrix) -> Matrix:
    """Return for each background word whether it means something else than each label.

    It does not if it is the label, one of its aliases, its parent or child, or nearly so.
    """
    apart_JK = (matrix_JD @ matrix_KD.T < _SAME_MEANING).astype(np.float32)
    rows = {text: j for j, text in enumerate(others.labels)}
    places = {label: k for k, label in enumerate(labels.labels)}
    for label, k in places.items():
        kin = (label, *labels.aliases.get(label, ()), labels.parents.get(label, label))
        apart_JK[[rows[text] for text in kin if text in rows], k] = 0
    for child, parent in labels.parents.items():
        if parent in places and child in rows:
            apart_JK[rows[child], places[parent]] = 0
    return apart_JK
