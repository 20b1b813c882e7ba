"""Label pack + text tower -> label matrix, once per label set and never per image.

Shapes: N texts, L tokens, K labels, D embedding dimensions.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from worker.contract.labels import PLACEHOLDER, LabelPack, LabelsError, parse_labels
from worker.engines.torchscript import load_module
from worker.errors import ArtifactError, InferenceError, LabelsMissingError
from worker.models.artifact import TEXT_TOWER, TOKENIZER
from worker.models.shelf import NoShelf, Shelf

if TYPE_CHECKING:
    from worker.models.artifact import Artifact

Matrix = npt.NDArray[np.float32]

_BATCH_TEXTS: Final = 64
# 20,000 labels of 512 dimensions are 40 MB.
_SETS_KEPT: Final = 16
_PAD_TOKENS: Final = ("[PAD]", "<pad>", "<|pad|>")


class LabelSet(NamedTuple):
    """Labels and their unit embeddings, row k for label k, C-contiguous float32."""

    labels: tuple[str, ...]
    matrix_KD: Matrix
    parents: Mapping[str, str] = MappingProxyType({})


class LabelCache:
    """Label sets by the hash of their pack; the least recently used go first."""

    def __init__(self, encode: Callable[[LabelPack], LabelSet]) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        self._sets: OrderedDict[str, Future[LabelSet]] = OrderedDict()

    def get(self, key: str, fetch: Callable[[], LabelPack]) -> LabelSet:
        """Return the set of `key`; its pack is fetched and encoded once, however many threads ask.

        Raises:
            Exception: what `fetch` or the encoder raised; the next to ask tries again.
        """
        with self._lock:
            found = self._sets.get(key)
            future: Future[LabelSet] = found or self._sets.setdefault(key, Future())
            self._sets.move_to_end(key)
            if len(self._sets) > _SETS_KEPT:
                self._sets.popitem(last=False)
        if found is None:
            # Outside the lock: those who ask for a set that stands do not wait for this one.
            self._fill(key, future, fetch)
        return future.result()

    def _fill(self, key: str, future: Future[LabelSet], fetch: Callable[[], LabelPack]) -> None:
        try:
            future.set_result(self._encode(fetch()))
        except BaseException as e:  # noqa: BLE001 - whoever waits for the set gets the reason
            with self._lock:
                self._sets.pop(key, None)
            future.set_exception(e)


class Encoder(Protocol):
    """What makes a label set of a label pack. Several threads may ask at once."""

    def encode(self, pack: LabelPack) -> LabelSet:
        """Return the pack's label set; what the pack leaves open is filled in from the model."""


def encoder_of(artifact: Artifact, device: str, shelf: Shelf | None = None) -> Encoder:
    """Return the encoder of a model: by its text tower, or by its fixed classes.

    Raises:
        ArtifactError: a file of the model cannot be used.
    """
    if artifact.manifest.kind == "classifier":
        return Classes(artifact)
    return LabelEncoder(artifact, device, shelf)


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
            msg = f"model {artifact.id} has {self._dim} logits for {len(self._labels)} labels"
            raise ArtifactError(msg)
        self._rows = {label: k for k, label in enumerate(self._labels)}

    def encode(self, pack: LabelPack) -> LabelSet:
        """Return the classes that the pack names, or all; templates mean nothing here.

        Raises:
            LabelsMissingError: it names one that the model does not know.
        """
        labels = pack.labels or self._labels
        if unknown := [label for label in labels if label not in self._rows]:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            msg = f"the model is a classifier that does not know {unknown[0]!r}{more}"
            raise LabelsMissingError(msg)
        matrix_KD = np.zeros((len(labels), self._dim), np.float32)
        matrix_KD[range(len(labels)), [self._rows[label] for label in labels]] = 1
        return LabelSet(labels, matrix_KD, MappingProxyType(pack.parents))


class LabelEncoder:
    """An artifact's text tower and tokenizer, loaded when a set is first encoded here."""

    def __init__(self, artifact: Artifact, device: str, shelf: Shelf | None = None) -> None:
        """Take the shelf on which encoded sets are shared with other workers, if there is one.

        Raises:
            ArtifactError: the tokenizer cannot be loaded.
        """
        self._artifact = artifact
        self._device = torch.device(device)
        self._shelf = shelf or NoShelf()
        self._tokenizer = _load_tokenizer(artifact)
        self._loading = threading.Lock()
        self._tower: torch.jit.ScriptModule | None = None

    def encode(self, pack: LabelPack) -> LabelSet:
        """Return the pack's label set; what the pack leaves open is filled in from the model.

        Raises:
            LabelsMissingError: the pack is empty and the model has no labels of its own.
            InferenceError: the text tower failed.
            ArtifactError: the text tower cannot be loaded.
            redis.RedisError: the shelf is away.
        """
        full = pack if pack.labels else own_pack(self._artifact, pack.templates)
        templates = full.templates or (self._artifact.manifest.template,)
        shape = (len(full.labels), self._artifact.manifest.embedding_dim)
        key = f"{self._artifact.id}:{pack.hash}"
        matrix_KD = self._shelf.get(key, shape, lambda: self._matrix(full, templates))
        return LabelSet(full.labels, matrix_KD, MappingProxyType(full.parents))

    def _matrix(self, pack: LabelPack, templates: Sequence[str]) -> Matrix:
        """Return unit embeddings KD: each the mean over templates, then over label and aliases."""
        owners: list[int] = []
        texts: list[str] = []
        for k, label in enumerate(pack.labels):
            names = (label, *pack.aliases.get(label, ()))
            owners += [k] * len(names)
            texts += names
        embedded = [
            self._embed([template.replace(PLACEHOLDER, text) for text in texts])
            for template in templates
        ]
        total_KD = np.zeros((len(pack.labels), self._artifact.manifest.embedding_dim), np.float32)
        np.add.at(total_KD, owners, _unit(np.sum(embedded, axis=0)))
        return _unit(total_KD)

    def _embed(self, texts: Sequence[str]) -> Matrix:
        """Return unit embeddings ND of the texts."""
        try:
            rows = [
                self._run(texts[start : start + _BATCH_TEXTS])
                for start in range(0, len(texts), _BATCH_TEXTS)
            ]
            return _unit(np.concatenate(rows))
        except (RuntimeError, ValueError) as e:
            msg = f"the text tower failed on the labels: {e}"
            raise InferenceError(msg) from e

    def _run(self, texts: Sequence[str]) -> Matrix:
        encoded = self._tokenizer.encode_batch(list(texts))
        ids_NL = torch.tensor([e.ids for e in encoded], device=self._device)
        mask_NL = torch.tensor([e.attention_mask for e in encoded], device=self._device)
        tower = self._load_tower()
        with torch.inference_mode():
            rows: Matrix = tower(ids_NL, mask_NL).to("cpu", torch.float32).numpy()
        return rows

    def _load_tower(self) -> torch.jit.ScriptModule:
        """Return the text tower. A worker that finds every set on the shelf never needs it."""
        with self._loading:
            if self._tower is None:
                self._tower = load_module(self._artifact.file(TEXT_TOWER), self._device)
            return self._tower


def own_pack(artifact: Artifact, templates: tuple[str, ...] = ()) -> LabelPack:
    """Return the label set that the model came with.

    Raises:
        LabelsMissingError: it has none.
        ArtifactError: its label file cannot be used.
    """
    name = artifact.manifest.labels
    if name is None:
        raise LabelsMissingError
    try:
        text = artifact.file(name).read_text(encoding="utf-8")
        if artifact.manifest.kind == "classifier":
            # Names that somebody else gave: whatever signs they hold are letters.
            return LabelPack(tuple(text.split("\n")[:-1]))
        return msgspec.structs.replace(parse_labels(text), templates=templates)
    except (LabelsError, OSError, UnicodeError) as e:
        msg = f"{name} of model {artifact.id}: {e}"
        raise ArtifactError(msg) from e


def _load_tokenizer(artifact: Artifact) -> Tokenizer:
    """Return the tokenizer, set to rows of exactly `max_text_tokens`: the shape that was traced."""
    path = artifact.file(TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises nothing narrower
        msg = f"{TOKENIZER} of model {artifact.id} cannot be loaded: {e}"
        raise ArtifactError(msg) from e
    length = artifact.manifest.max_text_tokens
    tokenizer.enable_truncation(max_length=length)
    tokenizer.enable_padding(length=length, **_padding(tokenizer))
    return tokenizer


def _padding(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the tokenizer's own way of padding, else its padding token, else id 0."""
    if tokenizer.padding:
        kept = ("direction", "pad_id", "pad_type_id", "pad_token")
        return {name: tokenizer.padding[name] for name in kept}
    for token in _PAD_TOKENS:
        if (pad_id := tokenizer.token_to_id(token)) is not None:
            return {"pad_id": pad_id, "pad_token": token}
    return {}


def _unit(matrix: Matrix) -> Matrix:
    """Return the rows at length 1."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        msg = "a label's embedding is not a finite vector"
        raise ValueError(msg)
    return np.ascontiguousarray(matrix / lengths, dtype=np.float32)
