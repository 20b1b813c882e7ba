"""Names of versions before the prefix, for the time of an upgrade: workers change one by one.

Workers of this version serve producers of those before, if they have the default prefix
(`worker.service.legacy`): they take what waits in the old queue, and answer at the old names.

To be deleted, with all that names it, when no program of those versions is left.
"""

from __future__ import annotations

from typing import Final

from worker.contract.keys import DEFAULT_PREFIX, Keys

QUEUE: Final = "tag"
PROCESSING: Final = "tag.processing"
UNACKED: Final = "unacked"
UNACKED_INDEX: Final = "unacked_index"
# A header of a message that came from the old queue.
MARK: Final = "legacy"
# A field of the record of a job that a version with a prefix has created.
JOB_FIELD: Final = "prefix"


def is_served(keys: Keys) -> bool:
    """Whether workers with these names serve the old ones, too."""
    return keys.prefix == DEFAULT_PREFIX


def result(task: str) -> str:
    """Return where a producer of an old version looks for a result."""
    return f"celery-task-meta-{task}"
