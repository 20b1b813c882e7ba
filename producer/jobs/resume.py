"""Where records go -> the state of what is done there: of a file, of sidecars, or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from producer.formats import Target, is_stream
from producer.formats.xmp_sidecar import Notes, Sidecar, SidecarError, sidecar_of
from producer.jobs.options import TagSource
from producer.jobs.resume_file import FileResumeState, stamp_of
from producer.jobs.resume_state import NoResumeState, ResumeState
from producer.sources.scan import Image, path_of

__all__ = ["ResumeState", "resume_state_of"]


def resume_state_of(target: Target | None, *, retries_failed: bool = False) -> ResumeState:
    """Return the state of resumption of what records are written to."""
    if target is None:
        return NoResumeState()
    if target.file is not None and not is_stream(target.file):
        return FileResumeState(target, target.file, retries_failed=retries_failed)
    return SidecarResumeState(target) if target.in_sidecars else NoResumeState()


class SidecarResumeState(NoResumeState):
    """Each image's own sidecar tells whether it is done: by our notes in it."""

    def __init__(self, target: Target) -> None:
        self._by_stem = target.format == "xmp-stem"

    def pending(self, images: Iterable[Image], source: TagSource) -> Iterator[Image]:
        """Yield the images whose notes are missing, or of another file, model or label set."""
        for image in images:
            path = path_of(image)
            stamp = stamp_of(path)
            if stamp is None or self._notes(path) != (source.model, source.labels or "", stamp):
                yield image

    def _notes(self, path: str) -> Notes | None:
        try:
            return Sidecar.read(sidecar_of(path, by_stem=self._by_stem)).notes
        except (OSError, SidecarError):
            return None
