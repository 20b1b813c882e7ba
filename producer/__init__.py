"""Finds images, sends them to be tagged, collects the tags. Imports neither torch nor PIL.

`from producer import Client` is the Python API; see `producer.client`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from producer.client import Client
    from producer.errors import (
        EncodingError,
        ExistingRecordsError,
        InUseError,
        JobLostError,
        LabelsNeededError,
        NoImagesError,
        NoResultsError,
        NoSuchJobError,
        NoSuchPathError,
        NotInstalledError,
        NoWorkerError,
        ProducerError,
        RecordsError,
        ServerError,
        StoreError,
        UnavailableError,
        UnknownFormatError,
        UsageError,
    )
    from worker.contract.labels import LabelPack
    from worker.contract.messages import Failure, Record, Tag, Timing

__all__ = [
    "Client",
    "EncodingError",
    "ExistingRecordsError",
    "Failure",
    "InUseError",
    "JobLostError",
    "LabelPack",
    "LabelsNeededError",
    "NoImagesError",
    "NoResultsError",
    "NoSuchJobError",
    "NoSuchPathError",
    "NoWorkerError",
    "NotInstalledError",
    "ProducerError",
    "Record",
    "RecordsError",
    "ServerError",
    "StoreError",
    "Tag",
    "Timing",
    "UnavailableError",
    "UnknownFormatError",
    "UsageError",
]

_MESSAGES: Final = ("Failure", "Record", "Tag", "Timing")
_MODULES: Final = {
    "Client": "producer.client",
    "LabelPack": "worker.contract.labels",
    **dict.fromkeys(_MESSAGES, "worker.contract.messages"),
}


def __getattr__(name: str) -> Any:
    """Load what is asked for: the commands, which need less, begin sooner (PEP 562)."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_MODULES.get(name, "producer.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
