"""A file of records with embeddings, and a text -> the images that are nearest to it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from producer.embeddings.ranking import Hit, as_matrix, check_model, matrix_of, nearest
from producer.embeddings.text_encoder import Asked, Encoding
from producer.errors import UsageError
from producer.formats import form_of, records_of
from producer.formats.names import from_utf8
from producer.formats.parquet import embedded_rows
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack

if TYPE_CHECKING:
    from celery import Celery

    from worker.contract.text_embeddings import Encoded

_ROWS: Final = 8192
# Of 512 dimensions they are a gigabyte: a million images.
_GROUPS_AHEAD: Final = 128
_LOOK_S: Final = 0.1

T = TypeVar("T")

Block = tuple[Sequence[str], npt.NDArray[np.float16]]


def search_text(
    file: Path, text: str, top: int, model: str | None, app: Celery | None
) -> list[Hit]:
    """Return the `top` images of a file that are nearest to a text, the nearest first.

    A worker that is online embeds it; without an `app` or one, or with a `model`, a process of its
    own does.

    Raises:
        UsageError: there is no text, or no image is asked for.
        RecordsError: there are no embeddings in the file.
        EncodingError: the text cannot be embedded, or the embeddings are of another model.
    """
    if not text.strip():
        raise UsageError(_("the text to search for is blank"))
    if top < 1:
        raise UsageError(_("top must be at least 1"))
    pack = LabelPack((text,), ("{}",))
    with Encoding(pack, model) if model or app is None else Asked(pack, model, app) as encoding:
        return search(file, encoding, top)


def search(file: Path, encoding: Encoding | Asked, top: int) -> list[Hit]:
    """Return the `top` images, the nearest first.

    Raises:
        RecordsError: there are no embeddings in the file.
        EncodingError: the text cannot be embedded, or the embeddings are of another model.
    """
    if form_of(file) != "parquet":
        embedded = encoding.result()
        return nearest(_lines(file, embedded.encoded), embedded, top)
    # The file is read while the child loads its libraries.
    with _read_ahead(embedded_rows(file)) as rows:
        embedded = encoding.result()
        hits = nearest(_columns(rows, embedded.encoded), embedded, top)
    return [hit._replace(path=from_utf8(hit.path)) for hit in hits]


def _columns(rows: Iterable[tuple[Any, str, memoryview]], encoded: Encoded) -> Iterator[Block]:
    for paths, model, vectors in rows:
        if len(paths):
            check_model(model, encoded)
            yield paths, as_matrix(vectors, encoded)


@contextmanager
def _read_ahead(rows: Iterator[T]) -> Iterator[Iterator[T]]:
    """Yield the same in the same order, read by a thread of its own, some steps ahead."""
    ahead: Queue[T | BaseException | None] = Queue(_GROUPS_AHEAD)
    ended = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not ended.is_set():
            with suppress(Full):
                ahead.put(item, timeout=_LOOK_S)
                return

    def read() -> None:
        try:
            for row in rows:
                put(row)
                if ended.is_set():
                    return
            put(None)
        except BaseException as e:  # noqa: BLE001 - raised where it is read
            put(e)

    def taken() -> Iterator[T]:
        while (item := ahead.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        ended.set()
        thread.join()


def _lines(file: Path, encoded: Encoded) -> Iterator[Block]:
    records = (one for one in records_of(file) if one.error is None)
    while block := list(islice(records, _ROWS)):
        yield [one.path for one in block], matrix_of(block, encoded)
