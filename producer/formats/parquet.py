"""Records <-> Parquet with typed columns, in row groups: memory is flat whatever their number.

Shapes: N rows, D embedding dimensions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from producer.arguments import argument
from producer.errors import RecordsError
from producer.formats.names import from_utf8, to_utf8
from worker.contract.i18n import gettext as _
from worker.contract.local.files import open_regular
from worker.contract.messages import Record, Timing

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# With embeddings of 512 dimensions some 10 MB in memory.
ROW_GROUP: Final = 8192
# What other programs make of them: a million rows with embeddings are 1 GB.
MOST_GROUP_BYTES: Final = 4 * 1024**3
_HALF_BYTES: Final = 2
_EMBEDDING: Final = "embedding"
_WORDS: Final = (
    *("status", "worker", "device", "model", "labels", "error.code", "error.stage"),
    *("tags.list.element.label", "tags.list.element.parent"),
    "tags.list.element.ancestors.list.element",
)
_OTHERS: Final = (
    *("path", "error.message", "batch_size", "tags.list.element.score"),
    *(f"timing.{name}" for name in Timing.__struct_fields__),
    *("file.size_bytes", "file.modified_s"),
)
# Embeddings are noise: to compress them costs time, to look for repetitions more.
_AS: Final[dict[str, Any]] = {
    "compression": dict.fromkeys((*_WORDS, *_OTHERS), "zstd"),
    "use_dictionary": list(_WORDS),
}


def write_parquet(records: Callable[[], Iterator[Record]], file: Path) -> None:
    """Write all records; `records` is called twice if there may be embeddings.

    Columns are those of a line of JSON, nested as there; an embedding is a list of D float16.

    Raises:
        OSError: the file cannot be written.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - only who asks for Parquet waits for it

    dim = next((_dim(one) for one in records() if one.embedding is not None), 0)
    schema, rows = _schema(dim), records()
    with pq.ParquetWriter(file, schema, **_AS) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_batch(_batch(group, schema, dim))


def rewrite(file: Path, new: Path, change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> int:
    """Write a file's rows into another, group by group, as `change` returns them; return how many.

    Raises:
        RecordsError: it is no Parquet.
        OSError: the new file cannot be written.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    count = 0
    try:
        with _table(file) as table, pq.ParquetWriter(new, _renewed(table), **_AS) as out:
            for batch in table.iter_batches(ROW_GROUP):
                out.write_batch(change(batch))
                count += batch.num_rows
    except (pa.ArrowException, KeyError) as e:
        msg = _("{file}: these are not records ({reason})").format(file=file, reason=e)
        raise RecordsError(msg) from e
    return count


def embedded_rows(file: Path) -> Iterator[tuple[pa.StringArray, str, memoryview]]:
    """Yield paths, model and embeddings, float16 row by row, of those images that have one.

    Paths are as they stand in the file, for `from_utf8`. All images of a group are of one model, or
    it counts as "".

    Raises:
        RecordsError: it is no Parquet of records, or it was written without embeddings.
    """
    import pyarrow as pa  # noqa: PLC0415

    try:
        with _table(file) as table:
            if _EMBEDDING not in table.schema_arrow.names:
                msg = _("{file}: it holds no embeddings; submit with {embeddings}").format(
                    file=file, embeddings=argument("embeddings")
                )
                raise RecordsError(msg)
            for batch in table.iter_batches(ROW_GROUP, columns=["path", "model", _EMBEDDING]):
                some = batch.filter(batch.column(_EMBEDDING).is_valid())
                models = some.column("model").unique().to_pylist()
                model = models[0] if len(models) == 1 else ""
                yield some.column("path"), model, vectors_of(some)
    except (pa.ArrowException, KeyError) as e:
        msg = _("{file}: these are not records ({reason})").format(file=file, reason=e)
        raise RecordsError(msg) from e


def tags_type() -> pa.DataType:
    """Return the type of the column of tags."""
    import pyarrow as pa  # noqa: PLC0415

    text = pa.string()
    fields = {"label": text, "score": pa.float64(), "parent": text, "ancestors": pa.list_(text)}
    return pa.list_(pa.struct(fields))


def _renewed(table: pq.ParquetFile) -> pa.Schema:
    """Return the schema of a file with the tags of this version, which may say more."""
    schema = table.schema_arrow
    number = schema.get_field_index("tags")
    return schema.set(number, schema.field(number).with_type(tags_type()))


def vectors_of(batch: pa.RecordBatch) -> memoryview:
    """Return the bytes of the embeddings of rows that all have one, float16, row by row."""
    flat = batch.column(_EMBEDDING).flatten()
    start = flat.offset * _HALF_BYTES
    return memoryview(flat.buffers()[1])[start : start + len(flat) * _HALF_BYTES]


def read_parquet(file: Path) -> Iterator[Record]:
    """Yield the records of a file.

    Raises:
        RecordsError: it is no Parquet, or not that of records.
    """
    import pyarrow as pa  # noqa: PLC0415

    try:
        with _table(file) as table:
            for batch in table.iter_batches(ROW_GROUP):
                for row in _rows(batch):
                    yield msgspec.convert(row, Record)
    except (pa.ArrowException, KeyError, TypeError, msgspec.ValidationError) as e:
        msg = _("{file}: these are not records ({reason})").format(file=file, reason=e)
        raise RecordsError(msg) from e


def count_rows(file: Path) -> int:
    """Return how many records a file holds."""
    with _table(file) as table:
        return int(table.metadata.num_rows)


@contextmanager
def _table(file: Path) -> Iterator[pq.ParquetFile]:
    """Yield a file, opened; it can be read in steps, so it is no FIFO.

    Raises:
        RecordsError: a group of its rows is larger than any of ours.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415

    with open_regular(file) as stream, pq.ParquetFile(stream) as table:
        groups = map(table.metadata.row_group, range(table.num_row_groups))
        if any(group.total_byte_size > MOST_GROUP_BYTES for group in groups):
            msg = _("{file}: these are not records ({reason})").format(
                file=file, reason=_("a group of its rows is too large")
            )
            raise RecordsError(msg)
        yield table


def _schema(dim: int) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415

    text, number = pa.string(), pa.float64()
    category = pa.dictionary(pa.int32(), text)
    fields = {
        "path": text,
        "status": category,
        "tags": tags_type(),
        "error": pa.struct({"code": text, "stage": text, "message": text}),
        "timing": pa.struct(dict.fromkeys(Timing.__struct_fields__, number)),
        "batch_size": pa.int32(),
        **dict.fromkeys(("worker", "device", "model", "labels"), category),
        "file": pa.struct({"size_bytes": pa.int64(), "modified_s": number}),
    }
    if dim:
        fields[_EMBEDDING] = pa.list_(pa.float16(), dim)
    return pa.schema(fields)


def _batch(records: Sequence[Record], schema: pa.Schema, dim: int) -> pa.RecordBatch:
    import pyarrow as pa  # noqa: PLC0415

    rows = [msgspec.to_builtins(record) for record in records]
    for row in rows:
        row["path"] = to_utf8(row["path"])
    columns = [
        _embeddings(records, dim)
        if field.name == _EMBEDDING
        else pa.array([row[field.name] for row in rows], type=field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _embeddings(records: Sequence[Record], dim: int) -> pa.Array:
    """Return embeddings ND, null where there is none; their bytes are taken as they are."""
    import pyarrow as pa  # noqa: PLC0415

    blank = bytes(dim * _HALF_BYTES)
    rows = [base64.b64decode(one.embedding) if one.embedding else blank for one in records]
    if any(len(row) != len(blank) for row in rows):
        msg = _("embeddings of different dimensions cannot be in one file")
        raise RecordsError(msg)
    buffers = [None, pa.py_buffer(b"".join(rows))]
    values = pa.Array.from_buffers(pa.float16(), len(rows) * dim, buffers)
    nulls = pa.array([one.embedding is None for one in records])
    return pa.FixedSizeListArray.from_arrays(values, dim, mask=nulls)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    has_embeddings = _EMBEDDING in batch.schema.names
    plain = batch.drop_columns([_EMBEDDING]) if has_embeddings else batch
    vectors = batch.column(_EMBEDDING) if has_embeddings else None
    for index, row in enumerate(plain.to_pylist()):
        if vectors is not None and vectors[index].is_valid:
            row[_EMBEDDING] = _text(vectors, index)
        row["path"] = from_utf8(row["path"])
        for tag in row["tags"]:
            # Earlier versions had no such column.
            tag["ancestors"] = tag.get("ancestors") or ()
        yield row


def _text(vectors: pa.Array, index: int) -> str:
    size = vectors.type.list_size * _HALF_BYTES
    start = (vectors.offset + index) * size
    return base64.b64encode(vectors.values.buffers()[1][start : start + size]).decode()


def _dim(record: Record) -> int:
    return len(base64.b64decode(record.embedding or "")) // _HALF_BYTES
