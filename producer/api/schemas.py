"""Requests and replies of the HTTP API, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from pydantic import BaseModel, Field

from worker.contract.labels import (
    MAX_LABEL_CHARS,
    LabelPack,
    LabelsError,
    least_score,
    unique,
)
from worker.contract.messages import MAX_PATH_CHARS, MAX_THUMBNAIL_PX, Priority

_MOST_LABELS: Final = 20_000
_MOST_IMAGES: Final = 100_000

Label = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_CHARS)]
Template = Annotated[str, Meta(min_length=2, max_length=MAX_LABEL_CHARS)]
Place = Annotated[str, Meta(min_length=1, max_length=MAX_PATH_CHARS)]

Labels = Annotated[list[Label], Meta(max_length=_MOST_LABELS, description="else the model's own")]
Templates = Annotated[list[Template], Meta(max_length=16, description="with {} for a label")]
Aliases = Annotated[dict[Label, list[Label]], Meta(description="averaged with their label")]
Parents = Annotated[dict[Label, Label], Meta(description="given with the tag")]
Background = Annotated[list[Label], Meta(max_length=_MOST_LABELS, description="see calibrated")]
TopK = Annotated[int, Meta(ge=1, le=1000, description="tags an image, at most")]
Threshold = Annotated[float, Meta(ge=0, le=1, description="lowest score of a tag")]
Calibrated = Annotated[bool, Meta(description="score each label by itself")]
Images = Annotated[list[Place], Meta(max_length=_MOST_IMAGES, description="paths or URLs")]
Thumbnail = Annotated[int, Meta(ge=0, le=MAX_THUMBNAIL_PX, description="keep one so large")]


# What comes in is read by msgspec: the wrong type ends it where it stands, before a tree of objects
# is made of all the rest.
class Manner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How images are to be tagged."""

    labels: Labels = []
    templates: Templates = []
    aliases: Aliases = {}
    parents: Parents = {}
    background: Background = []
    top_k: TopK = 5
    threshold: Threshold | None = None
    calibrated: Calibrated = False

    def pack(self) -> LabelPack:
        """Return the label set.

        Raises:
            LabelsError: it cannot be used.
        """
        labels = unique(self.labels)
        if self.labels and not labels:
            msg = "all labels are blank"
            raise LabelsError(msg)
        return LabelPack(
            labels,
            tuple(self.templates),
            {label: tuple(names) for label, names in self.aliases.items()},
            self.parents,
            calibrated=self.calibrated,
            background=tuple(self.background),
        )

    def least(self) -> float:
        """Return the lowest score of a tag."""
        return least_score(self.threshold, calibrated=self.calibrated)


class NewJob(Manner, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Images that workers see by their paths, or fetch; more may be uploaded while it is open."""

    images: Images = []
    open: Annotated[bool, Meta(description="more images will be uploaded")] = False
    embeddings: Annotated[bool, Meta(description="keep them in the records")] = False
    thumbnail_px: Thumbnail = 0
    priority: Annotated[Priority, Meta(description="share of the workers: 1/4, 1 or 4")] = "normal"


class Result(BaseModel):
    """A label and its score, 0 to 1."""

    label: str
    score: float


class Prediction(BaseModel):
    """The tags of one image, the best first; times in milliseconds."""

    results: list[Result]
    timing: dict[str, float | None]
    batch_size: int | None
    model: str
    device: str


class Problem(BaseModel):
    """Why there is no answer: a stable code, and a sentence for a person."""

    code: str
    message: str


class JobState(BaseModel):
    """A job and its progress."""

    id: str
    state: str = Field(description="submitting, submitted, interrupted, cancelled or finished")
    images: int
    done: int
    failed: int
    codes: dict[str, int]


class Health(BaseModel):
    """Whether the queue answers, and the workers that are online."""

    status: Literal["ok", "no worker", "no queue"]
    workers: list[dict[str, Any]] = []


def json_body(kind: type) -> dict[str, Any]:
    """Return what the OpenAPI description says of a request whose body is such a struct."""
    _, schemas = msgspec.json.schema_components((kind,))
    return {
        "requestBody": {
            "content": {"application/json": {"schema": schemas[kind.__name__]}},
            "required": True,
        }
    }
