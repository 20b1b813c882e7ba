"""How a worker loads torch sooner: its libraries beside other imports, and not all of its kernels.

Both are done before torch is imported, and only by programs that mostly run TorchScript.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any, Final

# What torch itself loads first, and so that the libraries after it find its names.
_FIRST: Final = "libtorch_global_deps.so"
_LIBRARIES: Final = "libtorch.so"
# Kernels, in Python, for tensors of the device `meta`: transformers and torch.export need them, and
# the compiler. They are a quarter of what torch loads of Python, and 20 MB.
META_KERNELS: Final = "torch._meta_registrations"


def load_libraries(beside: Iterable[str]) -> None:
    """Load torch's libraries on a thread, and import modules `beside` that do not need them.

    A quarter of torch's start is the system's dynamic linker, which needs no Python. What cannot be
    found or loaded is left to torch, which says why.
    """
    thread = Thread(target=_load, name="torch-libraries", daemon=True)
    thread.start()
    try:
        for name in beside:
            importlib.import_module(name)
    finally:
        thread.join()


def _load() -> None:
    found = importlib.util.find_spec("torch")
    if sys.platform != "linux" or "torch" in sys.modules or not (found and found.origin):
        return
    directory = Path(found.origin).parent / "lib"
    # Not by ctypes.CDLL, which stops all Python meanwhile.
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    if dlopen(os.fsencode(directory / _FIRST), os.RTLD_NOW | os.RTLD_GLOBAL):
        dlopen(os.fsencode(directory / _LIBRARIES), os.RTLD_NOW | os.RTLD_LOCAL)


def postpone_meta_kernels() -> None:
    """Let torch, which is not loaded yet, go without kernels for `meta` until they are needed.

    They are loaded by `provide_meta_kernels`, or when a name of their module is asked for.
    """
    if "torch" not in sys.modules:
        sys.modules[META_KERNELS] = _Postponed(META_KERNELS)


def provide_meta_kernels() -> None:
    """Load what was postponed; harmless otherwise."""
    if isinstance(sys.modules.get(META_KERNELS), _Postponed):
        del sys.modules[META_KERNELS]
        importlib.import_module(META_KERNELS)


class _Postponed(ModuleType):
    """Stands for a module that is not loaded; becomes it when a name is asked for."""

    def __getattr__(self, name: str) -> Any:
        # Whoever looks through all modules asks for `__file__` and the like.
        if name.startswith("__"):
            raise AttributeError(name)
        provide_meta_kernels()
        return getattr(sys.modules[META_KERNELS], name)
