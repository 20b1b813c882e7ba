"""What counts as a URL, and from where images are fetched: for producers and workers alike."""

from __future__ import annotations

from typing import Final

from worker.contract.extras import remedy

WEB: Final = frozenset({"http", "https"})
# Of fsspec's many schemes, those that lead elsewhere: never to files of the worker's own machine
# (`file`, `local`), into its memory (`memory`), or into another file (`zip`, `tar`).
STORES: Final = frozenset(
    [
        *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"),
        *("sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs"),
    ]
)
# Stores whose URLs name a server of files; in others' stands a bucket, of the worker's own account.
_SERVERS: Final = frozenset({"sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs"})
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def is_url(text: str) -> bool:
    """Whether a text is written as a URL, of whatever scheme; a path on a disk is not."""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.isalnum()


def scheme_of(url: str) -> str:
    """Return what stands before `://`, in lower case."""
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Whether a URL leads to a web server, which has no directories."""
    return is_url(url) and scheme_of(url) in WEB


def is_fetchable(url: str) -> bool:
    """Whether workers fetch images by URLs of this scheme, where their settings allow it."""
    return is_url(url) and scheme_of(url) in WEB | STORES


def is_store_server(url: str) -> bool:
    """Whether a URL names a server of files, at which a worker would log in."""
    return is_url(url) and scheme_of(url) in _SERVERS


def store_remedy(url: str) -> str:
    """Return what to install for the store of a URL, or nothing where no extra brings it."""
    extra = _EXTRAS.get(scheme_of(url))
    return remedy(extra) if extra else ""
