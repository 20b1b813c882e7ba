"""Options of `worker evaluate` -> figures printed and written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.console import Console

from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.label_files import read_labels
from worker.contract.labels import LabelPack, least_score
from worker.contract.messages import CERTAIN
from worker.contract.printable import printable
from worker.contract.reasons import os_reason
from worker.contract.settings import Settings
from worker.contract.urls import is_url
from worker.contract.vocabularies import find_vocabulary
from worker.engines.tuned_batch import tuned
from worker.evaluation.answers import Answers, Case, ask, tag_names
from worker.evaluation.evaluation import Evaluation
from worker.evaluation.figures import measure, worst
from worker.evaluation.page import THUMBNAIL_PX, page
from worker.evaluation.same_words import same_word
from worker.evaluation.samples import EvaluationError, Sample, Truths, read_samples
from worker.evaluation.terminal import show
from worker.evaluation.truth import LabelNames
from worker.export.on_first_use import open_model
from worker.images.isolated.fork_server import fork_early
from worker.labels.own_labels import own_pack
from worker.monitoring import logs
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.stores import Stores

Echo = Callable[[str], None]

# Wide enough for every column when the output is no terminal.
_COLUMNS: Final = 140
# The user reads what the user has named.
_EVERYWHERE: Final = ("/",)
_PICTURES_PER_LINE: Final = 1024


class Request(NamedTuple):
    """The options of the command, beside the settings."""

    pictures: Path
    truth: Truths | None
    labels: str | None
    templates: tuple[str, ...]
    calibrated: bool
    threshold: float | None
    json_file: Path | None
    html_file: Path | None

    @property
    def least_score(self) -> float:
        """The lowest score of a tag: as given, else that of a certain one.

        Of a few labels of one's own, softmax may call one certain that is only the least wrong, or
        none: there, without calibration, every score is a tag's.
        """
        if self.threshold is None and self.labels is None:
            return CERTAIN
        return least_score(self.threshold, calibrated=self.calibrated)

    def pack(self) -> LabelPack:
        """Return the label set; without labels it means the model's own.

        Raises:
            LabelsError: a label file or a template cannot be used.
        """
        pack = LabelPack()
        if self.labels is not None:
            vocabulary = find_vocabulary(self.labels)
            pack = vocabulary.read_pack() if vocabulary else read_labels(Path(self.labels))
        return msgspec.structs.replace(pack, templates=self.templates, calibrated=self.calibrated)


def run(request: Request, settings: Settings, echo: Echo) -> None:
    """Measure, print the tables to standard output, write the files that were asked for.

    Raises:
        TaggerError: nothing can be measured, or a file cannot be written.
        LabelsError: the labels cannot be used.
    """
    logs.configure("warning")
    if settings.decoder != "threads":
        fork_early()
    pack = request.pack()
    for file in filter(None, (request.json_file, request.html_file)):
        _check_directory(file)
    samples = _samples(request)
    _check_urls(samples, settings)
    artifact = open_model(settings, echo)
    settings = msgspec.structs.replace(tuned(settings, artifact), image_roots=_EVERYWHERE)
    pipeline = Pipeline(settings, artifact, Stores(_NoBlobs(), _GivenPack(pack)))
    try:
        pipeline.start()
        found, answers = _evaluate(request, pipeline, pack, samples, echo)
    finally:
        pipeline.stop()
    console = Console()
    show(found, console if console.is_terminal else Console(width=_COLUMNS))
    if found.figures is None:
        raise EvaluationError(N_("there is nothing to measure: no picture was scored"))
    if request.json_file:
        _write(request.json_file, found.as_json())
    if request.html_file:
        _write(request.html_file, page(found, worst(answers.scored)))


class _NoBlobs:
    """Stands for the bytes in Redis: files hold the pictures."""

    def get(self, _key: str) -> None:
        """Return nothing."""


class _GivenPack:
    """Stands for the label packs in Redis: there is one."""

    def __init__(self, pack: LabelPack) -> None:
        self._pack = pack

    def get(self, _pack_hash: str) -> LabelPack:
        """Return the pack."""
        return self._pack


def _samples(request: Request) -> list[Sample]:
    try:
        return read_samples(request.pictures, request.truth)
    except OSError as e:
        raise EvaluationError(
            N_("{file} cannot be read: {reason}"),
            file=printable(str(e.filename or request.pictures)),
            reason=os_reason(e),
        ) from e


def _check_urls(samples: list[Sample], settings: Settings) -> None:
    """Refuse URLs if none may be fetched; of others each picture says whether it may."""
    url = next((sample.path for sample in samples if is_url(sample.path)), None)
    if url is not None and not settings.image_urls:
        raise EvaluationError(
            N_("{url} is a URL: name the beginnings of those to fetch in WANWU_IMAGE_URLS"),
            url=printable(url),
        )


def _evaluate(
    request: Request,
    pipeline: Pipeline,
    pack: LabelPack,
    samples: list[Sample],
    echo: Echo,
) -> tuple[Evaluation, Answers]:
    """Return what was found out, and the answers on which it rests."""
    label_set = pipeline.label_set(pack)
    full = pack if pack.labels else own_pack(pipeline.artifact)
    labels = tag_names(label_set)
    names = LabelNames(msgspec.structs.replace(full, labels=labels), same_word(pipeline, pack))
    cases, unknown, unlabelled = _matched(samples, names)

    def progress(done: int) -> None:
        if done % _PICTURES_PER_LINE == 0:
            echo(_("{done:,} of {all:,} pictures").format(done=done, all=len(cases)))

    thumbnail_px = THUMBNAIL_PX if request.html_file else 0
    answers = ask(pipeline, cases, pack, thumbnail_px, progress)
    figures = None
    if answers.scored:
        figures = measure(answers.scored, labels, request.least_score)
    found = Evaluation(
        model=pipeline.artifact.id,
        device=pipeline.info().device,
        labels=len(label_set.labels),
        calibrated=pack.calibrated,
        pictures=len(samples),
        unlabelled=unlabelled,
        not_in_set=len(samples) - len(cases) - unlabelled,
        unknown=dict(unknown),
        failed=tuple(answers.failed),
        figures=figures,
    )
    return found, answers


class _Matched(NamedTuple):
    """Pictures of which a label is in the set; what was left out, as `Evaluation` has it."""

    cases: list[Case]
    unknown: Counter[str]
    unlabelled: int


def _matched(samples: list[Sample], names: LabelNames) -> _Matched:
    cases: list[Case] = []
    unknown: Counter[str] = Counter()
    unlabelled = 0
    for sample in samples:
        truths, others = names.find_all(sample.names)
        unknown.update(others)
        if truths:
            cases.append(Case(sample, truths))
        elif not others:
            unlabelled += 1
    return _Matched(cases, unknown, unlabelled)


def _check_directory(file: Path) -> None:
    """Refuse at once what could not be written after an hour of measuring."""
    try:
        file.absolute().parent.stat()
    except OSError as e:
        raise _unwritable(file, e) from e


def _write(file: Path, body: bytes) -> None:
    try:
        file.write_bytes(body)
    except OSError as e:
        raise _unwritable(file, e) from e


def _unwritable(file: Path, error: OSError) -> EvaluationError:
    return EvaluationError(
        N_("{file} cannot be written: {reason}"),
        file=printable(str(file)),
        reason=os_reason(error),
    )
