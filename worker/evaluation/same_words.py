"""A name that no label has -> the label that means the same to a lexicon.

Shapes: K labels, D embedding dimensions.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from tokenizers import Tokenizer

from worker.artifact.manifest import TOKENIZER
from worker.contract.labels import PLACEHOLDER, LabelPack, LabelsError
from worker.errors import TaggerError
from worker.evaluation.truth import SameWord
from worker.labels.distinct import SAME, LabelReader
from worker.pipeline.pipeline import Pipeline

_ALONE: Final = (PLACEHOLDER,)


def same_word(pipeline: Pipeline, pack: LabelPack) -> SameWord:
    """Return what finds a label of the set by another word for it; None is its answer otherwise.

    Only of a lexicon, in which words for one thing have the same embedding. Other text towers give
    different things embeddings that are nearly alike, and the label file names the aliases.
    """
    if not pipeline.artifact.manifest.lexicon:
        return lambda _name: None
    reader = LabelReader(Tokenizer.from_file(str(pipeline.artifact.file(TOKENIZER))))

    @cache
    def find(name: str) -> str | None:
        # Asked for each time: so it stays among the sets that are kept.
        label_set = pipeline.label_set(pack)
        try:
            word = LabelPack((name,))
            if reader.check(word, _ALONE).refusals:
                return None
            likeness_K = label_set.matrix_KD @ pipeline.label_set(word).matrix_KD[0]
        except (LabelsError, TaggerError):
            # Too long, no UTF-8, or half known: no label is called so.
            return None
        best = int(likeness_K.argmax())
        return label_set.labels[best] if likeness_K[best] > SAME else None

    return find
