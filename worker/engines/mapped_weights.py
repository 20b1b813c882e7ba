"""Weights of a TorchScript file that were read into memory -> the same, mapped from the file.

Pages of a file that several processes map are in memory once. Workers on one host share them so,
and with the system's cache of files, which has them anyway. What is made of weights after loading
(eight bits that become floats, another layout) is each process's own.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any, Final

import torch

# Below, it is not worth a look.
_LEAST_BYTES: Final = 64 * 1024
# Of a zip file's local header: its length, and where it says how long name and extra field are.
_HEADER_BYTES: Final = 30
_LENGTHS: Final = slice(26, 30)


def map_weights(module: torch.jit.ScriptModule, file: Path) -> int:
    """Let large constants of a frozen module lie in its file; return how many bytes do.

    Each is compared with what the file holds, number by number: what differs stays in memory. Must
    come before the first run, which takes the constants over.

    Raises:
        OSError: the file cannot be read.
    """
    places = _places(file)
    # Private: nothing is ever written to the file.
    mapped_file: Any = torch.UntypedStorage.from_file(str(file), False, file.stat().st_size)  # noqa: FBT003
    # Its nodes live as long as it does.
    graph: Any = module.graph
    mapped = 0
    for node in graph.findAllNodes("prim::Constant"):
        if node.output().type().kind() != "TensorType" or not node.hasAttribute("value"):
            continue
        tensor = node.t("value")
        size = tensor.untyped_storage().nbytes()
        for offset in places.get(size, ()):
            if (view := _view(mapped_file, offset, tensor)) is not None:
                node.t_("value", view)
                mapped += size
                break
    return mapped


def _view(storage: torch.UntypedStorage, offset: int, like: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor like another at this place of the file, if it is the same."""
    begun, rest = divmod(offset, like.element_size())
    if rest:
        return None
    view = torch.empty(0, dtype=like.dtype)
    view.set_(storage, begun + like.storage_offset(), like.size(), like.stride())
    # Layers of one size are many: the first numbers tell most of them apart.
    first = (slice(1),) * like.ndim
    same = torch.equal(view[first], like[first]) and torch.equal(view, like)
    return view if same else None


def _places(file: Path) -> dict[int, list[int]]:
    """Return where in the file something large begins that is stored as it is, by its size."""
    places: dict[int, list[int]] = {}
    with file.open("rb") as raw, zipfile.ZipFile(raw) as archive:
        for entry in archive.infolist():
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size >= _LEAST_BYTES:
                places.setdefault(entry.file_size, []).append(_begin(raw, entry.header_offset))
    return places


def _begin(raw: IO[bytes], header: int) -> int:
    raw.seek(header)
    lengths = raw.read(_HEADER_BYTES)[_LENGTHS]
    name, extra = lengths[:2], lengths[2:]
    return header + _HEADER_BYTES + int.from_bytes(name, "little") + int.from_bytes(extra, "little")
