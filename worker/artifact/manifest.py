"""Directory -> Artifact: a manifest that is understood, and files that are what it says."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from worker.artifact.model_names import MANIFEST, MOST_MANIFEST_BYTES, no_model
from worker.contract.i18n import gettext_noop as N_
from worker.contract.labels import PLACEHOLDER
from worker.contract.local.files import open_regular, read_regular
from worker.contract.reasons import os_reason
from worker.contract.scoring import Scale
from worker.contract.settings import Positive
from worker.errors import ArtifactError, NoModelError

# 2 since there is `logit_bias`, 3 since one may do without TorchScript; what needs neither is
# written as 1, which older programs read.
FORMAT: Final = 3
IMAGE_TOWER: Final = "image.pt"
TEXT_TOWER: Final = "text.pt"
# The same towers as torch.export writes them. An artifact holds either form of each, or both.
IMAGE_PROGRAM: Final = "image.pt2"
TEXT_PROGRAM: Final = "text.pt2"
# The image tower's file, by the engine that it is for.
TOWERS: Final = {"torchscript": IMAGE_TOWER, "exported": IMAGE_PROGRAM}
TOKENIZER: Final = "tokenizer/tokenizer.json"
# transformers' own config and weights, for every engine but TorchScript.
ORIGINAL: Final = "transformers"
# Of each group one.
_REQUIRED: Final = {
    "zero-shot": ((IMAGE_TOWER, IMAGE_PROGRAM), (TEXT_TOWER, TEXT_PROGRAM), (TOKENIZER,)),
    "classifier": ((IMAGE_TOWER, IMAGE_PROGRAM),),
}
_ID_DIGITS: Final = 12
# CLIP holds its own below 100 (Radford et al. 2021, section 2.5). Far beyond, every score is 0 or 1
# or no number at all; far below, all are equal.
_LEAST_SCALE: Final = 0.001
_MOST_SCALE: Final = 10_000.0


class Source(msgspec.Struct, frozen=True):
    """Where the weights come from: a model id and the exact revision of it."""

    id: str
    revision: str | None = None


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """How a decoded image becomes `height` x `width` pixels.

    `squash` ignores the aspect ratio; `shortest_edge` keeps it and cuts out the centre, after a
    resize to `edge` pixels, by default as few as the cut needs. `margin` says how half a pixel
    beside the cut is rounded: down, or to the nearest even number. `mean` and `std`, of values in
    0..1, are in the graph already and listed here for readers.
    """

    height: Positive
    width: Positive
    resize: Literal["squash", "shortest_edge"] = "squash"
    edge: Positive | None = None
    margin: Literal["down", "even"] = "down"
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = (
        "bicubic"
    )
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `manifest.json` says. `files` maps each file's name to its sha256.

    A `zero-shot` model embeds images and texts alike; a `classifier` gives logits, `embedding_dim`
    of them, one for each of its own labels, and knows no texts. `logit_scale` is the factor itself
    (about 100 for CLIP), not its logarithm. With a `logit_bias` each label is scored by itself: the
    sigmoid of its logit and the bias (SigLIP; classifiers of several labels at once, with a bias of
    0). `labels` names the file of the model's own label set,
    if it has one. `parity` and `speed` were measured at export; `fast_decode` says that embeddings
    stay what they are when JPEGs are scaled down while they are decoded. `engine` is the fastest of
    those that the artifact has a file for, if several were measured. The texts of a `lexicon`
    are single words that it knows. `kinds` are the parents of its labels' parents.
    """

    format: int
    name: str
    kind: Literal["zero-shot", "classifier"]
    source: Source
    files: dict[str, str]
    preprocessing: Preprocessing
    embedding_dim: Positive
    logit_scale: float
    logit_bias: float | None = None
    max_text_tokens: int = 0
    template: str = PLACEHOLDER
    labels: str | None = None
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    batch_shapes: tuple[Positive, ...] = ()
    parity: dict[str, Any] = {}
    fast_decode: bool = False
    speed: dict[str, Any] = {}
    engine: Literal["torchscript", "exported"] | None = None
    torch: str = ""
    notice: str | None = None
    lexicon: bool = False
    kinds: dict[str, str] = {}

    def prompts(self, templates: tuple[str, ...]) -> tuple[str, ...]:
        """Return the templates of texts: those asked for, else the model's own.

        A lexicon looks words up, so that templates say nothing to it.
        """
        return (PLACEHOLDER,) if self.lexicon else templates or (self.template,)

    @property
    def scale(self) -> Scale:
        """What makes scores of cosines, or of a classifier's logits."""
        return Scale(self.logit_scale, self.logit_bias)

    def decodes_fast(self, mode: str) -> bool:
        """Whether JPEGs are scaled down while they are decoded, in mode auto, exact or fast."""
        return mode == "fast" or (mode == "auto" and self.fast_decode)

    def __post_init__(self) -> None:
        """Hold what types cannot express."""
        if not _LEAST_SCALE <= self.logit_scale <= _MOST_SCALE:
            msg = f"logit_scale must be a number from {_LEAST_SCALE:g} to {_MOST_SCALE:g}"
            raise ValueError(msg)
        if self.logit_bias is not None and not math.isfinite(self.logit_bias):
            msg = "logit_bias must be a number"
            raise ValueError(msg)
        if self.template.count(PLACEHOLDER) != 1:
            msg = f"template must hold {PLACEHOLDER} exactly once"
            raise ValueError(msg)
        if self.kind == "zero-shot" and self.max_text_tokens < 1:
            msg = "max_text_tokens must be at least 1"
            raise ValueError(msg)
        if self.kind == "classifier" and not self.labels:
            msg = "a classifier must name the file of its labels"
            raise ValueError(msg)
        needed = [*_REQUIRED[self.kind], *([(self.labels,)] if self.labels else [])]
        if missing := [names[0] for names in needed if not self.files.keys() & set(names)]:
            msg = f"files must list {', '.join(missing)}"
            raise ValueError(msg)


class Artifact(msgspec.Struct, frozen=True):
    """A model directory that was checked. `id` is `<name>@<sha256 of the manifest, first 12>`."""

    path: Path
    manifest: Manifest
    id: str

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest vouches for.

        Raises:
            ArtifactError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise ArtifactError(N_("model {model} has no {name}"), model=self.id, name=name)
        return self.path / name


def default_artifact() -> Path:
    """Return the directory of the model that ships with the program."""
    return Path(__file__).with_name("bundled")


def open_artifact(path: str | Path = "") -> Artifact:
    """Check the artifact at `path`, or the one that ships with the program, and return it.

    Raises:
        ArtifactError: one sentence that says what is wrong and what to do.
    """
    directory = Path(path) if path else default_artifact()
    manifest, body = _read(directory)
    for name, digest in manifest.files.items():
        _check_file(directory, name, digest)
    return Artifact(directory, manifest, artifact_id(manifest, body))


def read_manifest(path: str | Path = "") -> Manifest:
    """Return what the manifest of an artifact says; its files are not looked at.

    Raises:
        ArtifactError: as for `open_artifact`.
    """
    return _read(Path(path) if path else default_artifact())[0]


def artifact_id(manifest: Manifest, body: bytes) -> str:
    """Return the id of the artifact whose manifest is written as `body`."""
    return f"{manifest.name}@{hashlib.sha256(body).hexdigest()[:_ID_DIGITS]}"


def _read(directory: Path) -> tuple[Manifest, bytes]:
    try:
        body = read_regular(directory / MANIFEST, MOST_MANIFEST_BYTES)
    except OSError as e:
        raise _no_manifest(directory, e) from e
    return _parse(body, directory), body


def _no_manifest(directory: Path, error: OSError) -> ArtifactError:
    if problem := no_model(str(directory.absolute())):
        return NoModelError(problem)
    if isinstance(error, FileNotFoundError):
        return ArtifactError(
            N_("{directory} holds no {file}: it was not made by `worker export`"),
            directory=directory,
            file=MANIFEST,
        )
    return ArtifactError(
        N_("{file} cannot be read: {reason}"), file=directory / MANIFEST, reason=os_reason(error)
    )


def _parse(body: bytes, directory: Path) -> Manifest:
    class Header(msgspec.Struct):
        format: int

    try:
        # First of all the version: a newer manifest may differ in everything else.
        found = msgspec.json.decode(body, type=Header).format
        if found <= FORMAT:
            return msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as e:
        raise ArtifactError(
            N_("{file} cannot be used: {reason}"), file=directory / MANIFEST, reason=e
        ) from e
    raise ArtifactError(
        N_(
            "the model at {directory} has format {found}; this program knows up to {format}: "
            "upgrade"
        ),
        directory=directory,
        found=found,
        format=FORMAT,
    )


def _check_file(directory: Path, name: str, digest: str) -> None:
    file = directory / name
    if not file.resolve().is_relative_to(directory.resolve()):
        raise ArtifactError(
            N_("the manifest in {directory} names {name!r}, which lies outside of it"),
            directory=directory,
            name=name,
        )
    try:
        with open_regular(file) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as e:
        raise ArtifactError(
            N_("{file} of the model cannot be read: {reason}"),
            file=file,
            reason=os_reason(e),
        ) from e
    if found != digest:
        raise ArtifactError(
            N_("{file} is not the file that the manifest lists (sha256 differs): export it again"),
            file=file,
        )
