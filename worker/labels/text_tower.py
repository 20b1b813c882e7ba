"""Texts -> unit embeddings, by an artifact's tokenizer and text tower.

Shapes: N texts, L tokens, D embedding dimensions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from worker.artifact.manifest import TEXT_PROGRAM, TEXT_TOWER, TOKENIZER
from worker.contract.i18n import gettext_noop as N_
from worker.engines.programs import HAS_TORCHSCRIPT, load_program
from worker.engines.torchscript import load_module
from worker.errors import ArtifactError, InferenceError

if TYPE_CHECKING:
    from worker.artifact.manifest import Artifact

Matrix = npt.NDArray[np.float32]
OnProgress = Callable[[], object]
Tower = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_BATCH_TEXTS: Final = 64
# Between embeddings of length 1: rounding, and no more.
_SAME: Final = 1e-5
_PAD_TOKENS: Final = ("[PAD]", "<pad>", "<|pad|>")


class TextEmbedder:
    """An artifact's text tower, loaded when it is first needed. Any thread may ask."""

    def __init__(
        self, artifact: Artifact, device: str, on_progress: OnProgress = lambda: None
    ) -> None:
        """Load the tokenizer alone; `on_progress` is called after each batch of texts.

        Raises:
            ArtifactError: the tokenizer cannot be loaded.
        """
        self._artifact = artifact
        self._device = torch.device(device)
        self._on_progress = on_progress
        self._tokenizer = _load_tokenizer(artifact)
        self._loading = threading.Lock()
        self._tower: Tower | None = None
        self._trims: bool | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """What reads the texts: cuts and pads them as the tower wants them."""
        return self._tokenizer

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return unit embeddings ND of the texts, float32 on the CPU.

        Raises:
            InferenceError: the text tower failed.
            ArtifactError: the text tower cannot be loaded.
        """
        # Short ones together, so that few rows are longer than they need be.
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        rows_ND = np.empty((len(texts), self._artifact.manifest.embedding_dim), np.float32)
        try:
            for start in range(0, len(texts), _BATCH_TEXTS):
                some = order[start : start + _BATCH_TEXTS]
                rows_ND[some] = self._run([texts[n] for n in some])
                self._on_progress()
            return unit(rows_ND)
        except (RuntimeError, ValueError) as e:
            msg = f"the text tower failed on the labels: {e}"
            raise InferenceError(msg) from e

    def _run(self, texts: Sequence[str]) -> Matrix:
        tower = self._load_tower()
        ids_NL, mask_NL = self._tokens(texts)
        if self._trims is None:
            self._trims = _ignores_padding(tower, ids_NL, mask_NL)
        length = _longest(mask_NL) if self._trims else ids_NL.shape[1]
        with torch.inference_mode():
            rows = tower(ids_NL[:, :length], mask_NL[:, :length])
        found: Matrix = rows.to("cpu", torch.float32).numpy()
        return found

    def _tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask, each NL with L = `max_text_tokens`."""
        encoded = self._tokenizer.encode_batch(list(texts))
        ids_NL = torch.tensor([e.ids for e in encoded], device=self._device)
        return ids_NL, torch.tensor([e.attention_mask for e in encoded], device=self._device)

    def _load_tower(self) -> Tower:
        """Return the text tower. A worker that finds every matrix in the store never needs it."""
        with self._loading:
            if self._tower is None:
                self._tower = _load_tower(self._artifact, self._device)
            return self._tower


def _load_tower(artifact: Artifact, device: torch.device) -> Tower:
    """Return the text tower in TorchScript, where that works; the exported program loads slower."""
    files = artifact.manifest.files
    if TEXT_PROGRAM in files and not (HAS_TORCHSCRIPT and TEXT_TOWER in files):
        return load_program(artifact.file(TEXT_PROGRAM), device)
    return load_module(artifact.file(TEXT_TOWER), device)


def _load_tokenizer(artifact: Artifact) -> Tokenizer:
    """Return the tokenizer, set to rows of exactly `max_text_tokens`: the shape that was traced."""
    path = artifact.file(TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises nothing narrower
        raise ArtifactError(
            N_("{file} of model {model} cannot be loaded: {reason}"),
            file=TOKENIZER,
            model=artifact.id,
            reason=e,
        ) from e
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


def unit(matrix: Matrix) -> Matrix:
    """Return the rows at length 1."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        msg = "a label's embedding is not a finite vector"
        raise ValueError(msg)
    return np.ascontiguousarray(matrix / lengths, dtype=np.float32)


def _longest(mask_NL: torch.Tensor) -> int:
    return max(1, int(mask_NL.sum(dim=1).max()))


def _ignores_padding(tower: Tower, ids_NL: torch.Tensor, mask_NL: torch.Tensor) -> bool:
    """Whether the tower gives the same without the padding that all rows share.

    So it is with Chinese-CLIP and CLIP, which then take a fraction of the time; SigLIP reads its
    last token, and was trained on padding.
    """
    length = _longest(mask_NL)
    with torch.inference_mode():
        whole = tower(ids_NL[:2], mask_NL[:2])
        try:
            trimmed = tower(ids_NL[:2, :length], mask_NL[:2, :length])
        except RuntimeError:  # What was traced takes rows of one length.
            return False
    return torch.allclose(whole, trimmed, atol=_SAME)
