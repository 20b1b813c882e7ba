"""A file of records with embeddings -> the same with tags by other labels. Decodes no image.

Shapes: N images, T tags an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from producer.arguments import argument
from producer.embeddings.ranking import Ranker, as_matrix, check_model, retagged
from producer.embeddings.text_encoder import Encoding
from producer.errors import RecordsError
from producer.formats import Sink, form_of, records_of
from producer.formats.journal import replace
from producer.formats.output import Output
from producer.formats.parquet import rewrite, tags_type, vectors_of
from worker.contract.ancestors import ancestors_of
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack
from worker.contract.local.files import open_regular

if TYPE_CHECKING:
    import pyarrow as pa

_SCORE_DIGITS: Final = 6


class Retagged(NamedTuple):
    """How many images were tagged, and how many failed before, whose records stay as they are.

    `untagged` are those of the tagged ones that no label suits.
    """

    tagged: int
    failed: int
    untagged: int


def retag_into(
    output: Output,
    file: Path,
    pack: LabelPack,
    *,
    model: str | None,
    top_k: int,
    threshold: float,
    echo: Callable[[str], object],
) -> Retagged:
    """Write the records of `file` with tags by other labels to an output.

    `echo` is called with which labels these are, once they are embedded.

    Raises:
        RecordsError: these are no records, or one has no embedding.
        EncodingError: the labels cannot be embedded, or an embedding is of another model.
        OSError: the file cannot be read.
    """
    # The model takes seconds to load. From a FIFO its bytes come once.
    if file.is_file():
        open_regular(file).close()
    with Encoding(pack, model) as encoding:
        ranker = Ranker(encoding.result(), top_k=top_k)
    echo(
        _("tagging with {labels:,} labels and model {model}").format(
            labels=len(ranker.encoded.labels), model=ranker.encoded.model
        )
    )
    pack_hash = pack.hash if pack != LabelPack() else None
    target = output.target
    if target and target.file and target.format == form_of(file) == "parquet":
        done = retag_table(file, target.file, ranker, labels=pack_hash, threshold=threshold)
    else:
        with output.sink() as sink:
            done = retag(file, sink, ranker, labels=pack_hash, threshold=threshold)
    output.deliver()
    return done


def retag(
    file: Path, sink: Sink, ranker: Ranker, *, labels: str | None, threshold: float
) -> Retagged:
    """Write the records of `file`, retagged, to a sink.

    Raises:
        RecordsError: these are no records, or one has no embedding.
        EncodingError: one is of another model than the labels.
    """
    count = failed = untagged = 0
    for record in retagged(records_of(file), ranker, labels, threshold):
        sink.write(record)
        count += 1
        failed += record.error is not None
        untagged += not (record.error or record.tags)
    return Retagged(count - failed, failed, untagged)


def retag_table(
    file: Path, out: Path, ranker: Ranker, *, labels: str | None, threshold: float
) -> Retagged:
    """Do the same from Parquet to Parquet, by whole columns: all others are passed on unread."""
    change = _Change(ranker, labels, threshold)
    counts: list[int] = []
    replace(out, lambda new: counts.append(rewrite(file, new, change)))
    return Retagged(change.tagged, counts[0] - change.tagged, change.untagged)


class _Change:
    """Puts other tags into a batch of rows, and counts the images that are tagged."""

    def __init__(self, ranker: Ranker, labels: str | None, threshold: float) -> None:
        import pyarrow as pa  # noqa: PLC0415

        encoded = ranker.encoded
        self._ranker = ranker
        self._labels = labels
        self._threshold = threshold
        self.tagged = self.untagged = 0
        self._names = pa.array(ranker.names, pa.string())
        above = [ancestors_of(name, encoded.parents) for name in ranker.names]
        self._parents = pa.array([line[0] if line else None for line in above], pa.string())
        self._ancestors = pa.array([line[1:] for line in above], pa.list_(pa.string()))

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow.compute as pc  # noqa: PLC0415

        tagged = pc.equal(batch.column("status"), "ok")
        some = batch.filter(tagged)
        if "embedding" not in batch.schema.names or some.column("embedding").null_count:
            msg = _("an image has no embedding: submit with {embeddings}").format(
                embeddings=argument("embeddings")
            )
            raise RecordsError(msg)
        for model in some.column("model").unique().to_pylist():
            check_model(model, self._ranker.encoded)
        tags = self._tags(vectors_of(some), np.asarray(tagged, bool))
        batch = _with(batch, "tags", tags.cast(tags_type()))
        return _with(batch, "labels", self._of_labels(batch, tagged))

    def _of_labels(self, batch: pa.RecordBatch, tagged: pa.Array) -> pa.Array:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.compute as pc  # noqa: PLC0415

        old = batch.column("labels")
        new = pc.if_else(tagged, pa.scalar(self._labels, pa.string()), old.cast(pa.string()))
        return new.cast(old.type)

    def _blocks(self, vectors: memoryview) -> Iterator[npt.NDArray[np.float16]]:
        matrix_ND = as_matrix(vectors, self._ranker.encoded)
        rows = self._ranker.rows
        return (matrix_ND[n : n + rows] for n in range(0, max(1, len(matrix_ND)), rows))

    def _tags(self, vectors: memoryview, tagged_N: npt.NDArray[np.bool_]) -> pa.Array:
        """Return the lists of tags of all rows; those of failed images are empty."""
        import pyarrow as pa  # noqa: PLC0415

        counts_N = np.zeros(len(tagged_N), np.int32)
        parts = [self._ranker.rank(part) for part in self._blocks(vectors)]
        order_NT = np.concatenate([one.order_NT for one in parts])
        scores_NT = np.concatenate([one.scores_NT for one in parts])
        kept_NT = scores_NT >= self._threshold
        counts_N[tagged_N] = kept_NT.sum(axis=1)
        self.tagged += len(kept_NT)
        self.untagged += int((~kept_NT.any(axis=1)).sum())
        which = pa.array(order_NT[kept_NT])
        entries = pa.StructArray.from_arrays(
            [
                self._names.take(which),
                pa.array(np.round(scores_NT[kept_NT], _SCORE_DIGITS)),
                self._parents.take(which),
                self._ancestors.take(which),
            ],
            names=["label", "score", "parent", "ancestors"],
        )
        offsets = np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), entries)


def _with(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    """Return the rows with another column in the place of one."""
    index = batch.schema.get_field_index(name)
    return batch.set_column(index, batch.schema.field(index).with_type(column.type), column)
