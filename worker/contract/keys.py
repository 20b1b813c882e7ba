"""The prefix of an installation -> the name of everything that it has in Redis.

All installations and other applications may share one database: nothing is read, written or
published outside the prefix. One process may work with several installations, so no module keeps a
name of its own.

The names are those that kombu and Celery give with their option `global_keyprefix`, so any Celery
application that has it in `broker_transport_options` and `result_backend_transport_options` speaks
to the same queue, workers and results.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from worker.contract.messages import QUEUE, Chunk, MessageError, is_index, task_id

DEFAULT_PREFIX: Final = "wanwu:"
# No sign that means something in a pattern of Redis, in a format, or in the names of kombu.
_PREFIX: Final = re.compile(r"[0-9A-Za-z_.:-]{1,64}")
_SEPARATOR: Final = ":"


class Keys(msgspec.Struct, frozen=True):
    """The names below one prefix. A prefix that ends in a letter or a digit gets a `:`.

    Raises:
        ValueError: it is empty, longer than 64 characters, or has others than `0-9A-Za-z_.:-`.
    """

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        """Refuse what is no prefix, and end it with a separator."""
        if not _PREFIX.fullmatch(self.prefix):
            msg = "a prefix is 1 to 64 of the characters 0-9 A-Z a-z _ . : -"
            raise ValueError(msg)
        if self.prefix[-1].isalnum():
            msgspec.structs.force_setattr(self, "prefix", self.prefix + _SEPARATOR)

    # The queue: lists, and what kombu notes beside them.

    @property
    def queue(self) -> str:
        """List of the messages that wait."""
        return f"{self.prefix}{QUEUE}"

    @property
    def urgent_queue(self) -> str:
        """List of the urgent messages, once a worker has sorted them."""
        return f"{self.prefix}{QUEUE}.urgent"

    @property
    def turns(self) -> str:
        """Sorted set of the jobs that have messages waiting, by whose turn it is."""
        return f"{self.prefix}{QUEUE}.turns"

    def waiting(self, job: str) -> str:
        """Return the list of a job's messages, once a worker has sorted them."""
        return f"{self.prefix}{QUEUE}.job:{job}"

    @property
    def processing(self) -> str:
        """List of the messages that have left the queue and are not yet noted as leased."""
        return f"{self.prefix}{QUEUE}.processing"

    @property
    def newer(self) -> str:
        """List of the messages that wait for workers of a later version."""
        return f"{self.prefix}{QUEUE}.newer"

    @property
    def unacked(self) -> str:
        """Hash of the messages that workers hold."""
        return f"{self.prefix}unacked"

    @property
    def unacked_index(self) -> str:
        """Sorted set of their delivery tags, by when the lease was renewed."""
        return f"{self.prefix}unacked_index"

    @property
    def urgent(self) -> str:
        """Exists while some program sends urgent messages."""
        return f"{self.prefix}urgent"

    # Jobs and their results.

    @property
    def jobs(self) -> str:
        """Sorted set of the jobs, by when they were created."""
        return f"{self.prefix}jobs"

    def job(self, job: str) -> str:
        """Hash of a job's record."""
        return f"{self.prefix}job:{job}"

    def done(self, job: str) -> str:
        """Bits of a job, one a chunk, set when its results are stored."""
        return f"{self.prefix}job:{job}:done"

    def options(self, job: str) -> str:
        """Options of a job of the HTTP API."""
        return f"{self.prefix}options:{job}"

    def attempts(self, task: str) -> str:
        """Hash of what is known of a chunk, by its task id, that was delivered again."""
        return f"{self.prefix}attempts:{task}"

    def result(self, task: str) -> str:
        """Result of a task; also the channel on which it is published. Celery's own name."""
        return f"{self.prefix}celery-task-meta-{task}"

    def blob(self, job: str, seq: int, index: int) -> str:
        """Bytes of image `index` of chunk `seq` of a job."""
        return f"{self.prefix}blob:{task_id(job, seq)}:{index}"

    @property
    def dead(self) -> str:
        """Hash of the dead letters."""
        return f"{self.prefix}dead"

    @property
    def claims(self) -> str:
        """Sorted set of the dead letters that somebody is sending again, by until when."""
        return f"{self.prefix}dead.claims"

    # Labels and embeddings.

    def labels(self, pack_hash: str) -> str:
        """Return the name of a label pack."""
        return f"{self.prefix}labels:{pack_hash}"

    def matrix(self, name: str) -> str:
        """Return the name of an encoded label set."""
        return f"{self.prefix}matrix:{name}"

    def seen(self, way: str) -> str:
        """Sorted set of the images whose embeddings are kept, by a model and way of decoding."""
        return f"{self.prefix}seen:{way}"

    def replicated(self, token: str) -> str:
        """Return the name of a mark that is written after what replicas are to have."""
        return f"{self.prefix}replicated:{token}"

    @property
    def probe(self) -> str:
        """Return a name that is never used: by it, rights are asked about."""
        return f"{self.prefix}probe"

    def check_blobs(self, chunk: Chunk) -> None:
        """Make sure that all blobs of a chunk are its own, in this installation.

        A message must not make a worker read, or drop, whatever else lies in Redis.

        Raises:
            MessageError: one is not.
        """
        own = f"{self.prefix}blob:{chunk.task_id}:"
        for image in chunk.images:
            blob = image.blob
            if blob and not (blob.startswith(own) and is_index(blob[len(own) :])):
                msg = f"a blob does not belong to chunk {chunk.task_id} at {self.prefix}"
                raise MessageError(msg)


DEFAULT_KEYS: Final = Keys()
