"""Where a job's records go: a file, a URL, sidecars, standard output; or nowhere but to the caller.

A place that holds something is refused unless it may be overwritten; one command writes it at a
time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple

from producer.arguments import argument
from producer.errors import ExistingRecordsError, UnknownFormatError
from producer.formats import Sink, Target, existing_of, is_stream, open_sink, target_of
from producer.formats.confident import ConfidentSink
from producer.formats.deferred import DeferredSink
from producer.formats.existing import foreign
from producer.formats.journal import journal_of, refuse_journal
from producer.formats.output_lock import OutputLock, lock_of_url
from producer.formats.xmp import XmpSink
from producer.sources import stores as urls
from worker.contract.i18n import gettext as _
from worker.contract.messages import CERTAIN, Record
from worker.contract.urls import is_url

Echo = Callable[[str], object]


class Place(NamedTuple):
    """A file for records; with a `url` it is here only until it is complete, and then there."""

    file: Path
    url: str = ""


def place_of(name: str) -> Place:
    """Return where records go by this name; for a URL, a new directory of our own."""
    if not is_url(name):
        return Place(Path(name))
    return Place(Path(tempfile.mkdtemp(prefix="wanwu-")) / Path(name).name, name)


class Output:
    """A target for records. Without one they go to whoever iterates over them, and nowhere else."""

    def __init__(
        self, target: Target | None, url: str = "", *, threshold: float | None = None
    ) -> None:
        """Take where records go; with a URL, the target's file goes there in the end.

        No tag below the `threshold` is written; if none is given, sidecars have one all the same.
        """
        self._url = url
        self._threshold = threshold
        self._confident: ConfidentSink | None = None
        self.target: Final = target
        self._sidecars: XmpSink | None = None
        self._deferred: DeferredSink | None = None

    @classmethod
    def at(cls, name: str | None, form: str | None, threshold: float | None = None) -> Output:
        """Return the output of this file or URL, in the format of that name or of its ending.

        Raises:
            UnknownFormatError: there is none, or they do not belong together.
            ExtraError: what the format needs is not installed.
            StoreError: the URL's store cannot be reached from here.
        """
        if name is None and form is None:
            return cls(None)  # Whoever iterates has what the workers send.
        if name == "":
            raise UnknownFormatError(_("the name of the file for records is empty"))
        if name is not None and is_url(name):
            urls.check(name)
        place = place_of(name) if name is not None else None
        target = target_of(place and place.file, form)
        return cls(target, place.url if place else "", threshold=threshold)

    @contextmanager
    def sink(self, *, appends: bool = False) -> Iterator[Sink]:
        """Yield what takes the records."""
        if self.target is None:
            yield _NoSink()
            return
        with open_sink(self.target, appends=appends) as sink:
            if isinstance(sink, XmpSink):
                self._sidecars = sink
            if isinstance(sink, DeferredSink):
                self._deferred = sink
            yield self._without_doubtful(sink)

    def _without_doubtful(self, sink: Sink) -> Sink:
        least = self._threshold
        if least is None and self.target and self.target.in_sidecars:
            # However scores are made: the label is as likely as all else together.
            least = CERTAIN
        self._confident = ConfidentSink(sink, least) if least else None
        return self._confident or sink

    def held(self, echo: Echo) -> AbstractContextManager[None]:
        """Keep other commands from the file in the block; `echo` is called if nothing does.

        Of a URL, other commands on this machine are kept away.

        Raises:
            InUseError: another command writes it.
            UnfitFileError: where its journal would lie, there is something else.
        """
        if self._url:
            return lock_of_url(self._url).held(echo)
        file = self.target and self.target.file
        if file is None or is_stream(file):
            return nullcontext()
        if self.target and not self.target.form.stream:
            refuse_journal(file)
        return OutputLock(file).held(echo)

    @contextmanager
    def reserved(self, echo: Echo, *, overwrite: bool) -> Iterator[None]:
        """Keep other commands from the output, which holds nothing unless it may be overwritten.

        Raises:
            InUseError: another command writes it.
            ExistingRecordsError: it holds something.
        """
        with self.held(echo):
            if not overwrite:
                self.refuse_to_replace(_("choose another {out}").format(out=argument("out")))
            yield

    def refuse_to_replace(self, way_on: str) -> None:
        """Refuse a file, or URL, that holds something; `way_on` is what else can be done about it.

        Raises:
            ExistingRecordsError: naming how much stands there.
            StoreError: the URL's store does not answer.
        """
        if self.target is None:
            return
        if self._url:
            if size_bytes := urls.size(self._url):
                self._drop_copy()
                msg = _(
                    "{url} already holds {size:,} bytes: {way_on}, or replace them with {overwrite}"
                ).format(
                    url=self._url,
                    size=size_bytes,
                    way_on=way_on,
                    overwrite=argument("overwrite"),
                )
                raise ExistingRecordsError(msg)
            return
        found = existing_of(self.target)
        if found.foreign:
            raise ExistingRecordsError(foreign(found.file))
        if found.records:
            msg = _(
                "{file} already holds {count} records: {way_on}, or replace them with {overwrite}"
            ).format(
                file=found.file,
                count=found.how_many,
                way_on=way_on,
                overwrite=argument("overwrite"),
            )
            raise ExistingRecordsError(msg)

    def fetch(self) -> None:
        """Get what lies at the URL already, to go on with it.

        Raises:
            StoreError: it does not answer.
        """
        if self._url and self.target and self.target.file:
            urls.download(self._url, self.target.file)

    def deliver(self) -> None:
        """Send the file to its URL, if it has one.

        Raises:
            StoreError: it is not taken. The file stays here.
        """
        if self._url and self.target and self.target.file:
            urls.upload(self.target.file, self._url)
            self._drop_copy()

    def _drop_copy(self) -> None:
        if self.target and self.target.file:
            shutil.rmtree(self.target.file.parent)

    @property
    def is_untouched(self) -> bool:
        """Whether the file still holds what it held before, as no record has come."""
        return self._deferred is not None and not self._deferred.is_opened

    @property
    def unwritten(self) -> int:
        """How many sidecars could not be written."""
        return self._sidecars.unwritten if self._sidecars else 0

    def remarks(self) -> Iterator[str]:
        """Yield what a user should know of how it was written."""
        if (found := self._confident) and found.tags:
            message = _(
                "tags below {least:g} were left out: {tags:,} (images without any: {images:,})"
            )
            if self._threshold is None:
                message = _(
                    "tags below {least:g} were left out of the sidecars: {tags:,} (images without "
                    "any: {images:,}); {threshold} sets another limit"
                )
            yield message.format(
                tags=found.tags,
                least=found.least_score,
                images=found.images,
                threshold=argument("threshold"),
            )
        if self._sidecars and self.unwritten:
            yield from self._sidecars.problems
            if (more := self.unwritten - len(self._sidecars.problems)) > 0:
                yield _("and {more:,} more").format(more=more)

    @property
    def place(self) -> str:
        """Where the records are that have come so far, for a sentence."""
        if self.target is None or (self.target.file is None and not self.target.in_sidecars):
            return _("the output above")
        if self.target.in_sidecars:
            return _("the sidecars")
        file = self.target.file
        return str(file if file is None or self.target.form.stream else journal_of(file))


class _NoSink:
    def write(self, record: Record) -> None:
        """Leave the record to whoever iterates."""

    def flush(self) -> None:
        """Have nothing to flush."""
