"""A file of records with embeddings, and a text -> the images that are nearest to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from producer.embeddings.vectors import Hit, as_matrix, check_model, matrix_of, nearest
from producer.sinks import form_of, records_of
from producer.sinks.parquet import embedded_rows

if TYPE_CHECKING:
    from producer.embeddings.encoder import Encoding
    from worker.contract.encoded import Encoded

_ROWS: Final = 8192

Block = tuple[Sequence[str], npt.NDArray[np.float16]]


def search(file: Path, encoding: Encoding, top: int) -> list[Hit]:
    """Return the `top` images, the nearest first.

    Raises:
        RecordsError: there are no embeddings in the file.
        EncodingError: the text cannot be embedded, or the embeddings are of another model.
    """
    embedded = encoding.result()
    blocks = _columns if form_of(file) == "parquet" else _lines
    return nearest(blocks(file, embedded.told), embedded, top)


def _columns(file: Path, told: Encoded) -> Iterator[Block]:
    for paths, model, vectors in embedded_rows(file):
        if len(paths):
            check_model(model, told)
            yield paths, as_matrix(vectors, told)


def _lines(file: Path, told: Encoded) -> Iterator[Block]:
    records = (one for one in records_of(file) if one.error is None)
    while block := list(islice(records, _ROWS)):
        yield [one.path for one in block], matrix_of(block, told)
