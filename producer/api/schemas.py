"""Requests and replies of the HTTP API, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.contract.labels import (
    CALIBRATED_THRESHOLD,
    MAX_LABEL_CHARS,
    LabelPack,
    LabelsError,
    unique,
)
from worker.contract.messages import MAX_PATH_CHARS, MAX_THUMBNAIL_PX, Priority

Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]
Template = Annotated[str, Field(min_length=2, max_length=MAX_LABEL_CHARS)]
Place = Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARS)]


class Manner(BaseModel):
    """How images are to be tagged."""

    model_config = ConfigDict(extra="forbid")

    labels: list[Label] = Field(default=[], max_length=20_000, description="else the model's own")
    templates: list[Template] = Field(default=[], max_length=16, description="with {} for a label")
    aliases: dict[Label, list[Label]] = Field(default={}, description="averaged with their label")
    parents: dict[Label, Label] = Field(default={}, description="given with the tag")
    background: list[Label] = Field(default=[], max_length=20_000, description="see calibrated")
    top_k: int = Field(default=5, ge=1, le=1000, description="tags an image, at most")
    threshold: float | None = Field(default=None, ge=0, le=1, description="lowest score of a tag")
    calibrated: bool = Field(default=False, description="score each label by itself")

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
        if self.threshold is not None:
            return self.threshold
        return CALIBRATED_THRESHOLD if self.calibrated else 0.0


class NewJob(Manner):
    """Images that workers see by their paths, or fetch; more may be uploaded while it is open."""

    images: list[Place] = Field(default=[], max_length=100_000, description="paths or URLs")
    open: bool = Field(default=False, description="more images will be uploaded")
    embeddings: bool = Field(default=False, description="keep them in the records")
    thumbnail_px: int = Field(default=0, ge=0, le=MAX_THUMBNAIL_PX, description="keep one so large")
    priority: Priority = Field(default="normal", description="share of the workers: 1/4, 1 or 4")


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
