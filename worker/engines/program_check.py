"""A `.pt2` file -> nothing, or a refusal: it may hold a model's computation and no more.

torch unpickles parts of such a file, evaluates its expressions as Python, and calls whatever below
`torch` its graph names. TorchScript does none of that, and an artifact may come from anywhere.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from worker.contract.i18n import gettext_noop as N_
from worker.errors import ArtifactError

_FILES: Final = re.compile(
    r"(?:data/weights/(?:weight_\d+|model_weights_config\.json)"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json"
    r"|archive_format|archive_version|byteorder|\.data/(?:version|serialization_id))"
)
_TENSORS: Final = re.compile(r"(?:weight|tensor)_\d+")
_OPERATORS: Final = re.compile(
    r"torch\.ops\.(?:aten|onednn|mkldnn|quantized_decomposed)\.\w+(?:\.\w+)?"
    r"|_operator\.(?:add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem)"
    r"|torch\.sym_\w+|math\.\w+"
)
# Sums and products of sizes, as sympy writes them.
_NAMES: Final = frozenset(
    (
        *("Symbol", "Integer", "Add", "Mul", "Pow", "Mod", "Max", "Min", "positive", "integer"),
        *("nonnegative", "True", "False", "FloorDiv", "CleanDiv", "PythonMod", "ModularIndexing"),
        *(
            "Eq",
            "Ne",
            "Lt",
            "Le",
            "Gt",
            "Ge",
            "Equality",
            "Unequality",
            "LessThan",
            "StrictLessThan",
        ),
        *("GreaterThan", "StrictGreaterThan", "And", "Or", "Not", "oo", "int_oo", "evaluate"),
    )
)
_EXPRESSION: Final = re.compile(r"[\w(),.=' +\-*/<>]*")
_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_SYMBOL: Final = re.compile(r"[su]\d+")
_MOST_BYTES: Final = 256 * 1024 * 1024


def check_program(file: Path) -> None:
    """Refuse a file that could run code of its own.

    Raises:
        ArtifactError: it could, or it is no such file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            problem = next(_problems(archive), None)
    except (OSError, ValueError, zipfile.BadZipFile, RecursionError) as e:
        problem = str(e).partition("\n")[0] or repr(e)
    if problem is not None:
        raise ArtifactError(
            N_("{file} of the model is no exported program that may be loaded: {reason}"),
            file=file.name,
            reason=problem,
        )


def _problems(archive: zipfile.ZipFile) -> Iterator[str]:
    names = archive.namelist()
    inner = [name.partition("/")[2] for name in names]
    yield from (name for name in inner if not _FILES.fullmatch(name))
    if len(set(inner)) < len(inner) or len({name.partition("/")[0] for name in names}) != 1:
        yield names[0]
    for name, own in zip(names, inner, strict=True):
        if own.endswith(".json"):
            found = json.loads(_read(archive, name))
            yield from _unknown_in(found) if own.startswith("models/") else _pickled(found)
        elif own == "data/sample_inputs/model.pt":
            yield from _more_than_tensors(_read(archive, name))


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ValueError(name)
    return archive.read(name)


def _pickled(config: Any) -> Iterator[str]:
    for name, entry in config["config"].items():
        if entry["use_pickle"] or not _TENSORS.fullmatch(entry["path_name"]):
            yield name


def _more_than_tensors(body: bytes) -> Iterator[str]:
    if not body:
        return
    try:
        torch.load(io.BytesIO(body), weights_only=True)
    except Exception as e:  # noqa: BLE001 - torch would try again with all of pickle
        yield str(e).partition("\n")[0]


def _unknown_in(graph: Any) -> Iterator[str]:
    """Yield operators and expressions that no model of ours has."""
    pending = [graph]
    while pending:
        found = pending.pop()
        if isinstance(found, list):
            pending += found
        elif isinstance(found, dict):
            pending += found.values()
            if isinstance(text := found.get("expr_str"), str) and not _is_size(text):
                yield text
            called = [found["target"]] if "inputs" in found and "target" in found else []
            called += [found["as_operator"]] if "as_operator" in found else []
            yield from (str(one) for one in called if not _OPERATORS.fullmatch(str(one)))


def _is_size(text: str) -> bool:
    names = _WORD.findall(text)
    known = all(word in _NAMES or _SYMBOL.fullmatch(word) for word in names)
    return known and _EXPRESSION.fullmatch(text) is not None
