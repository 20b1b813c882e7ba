"""Options that verbs share, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from worker.artifact.model_names import no_model
from worker.contract.i18n import gettext as _
from worker.contract.settings import DEVICE, NO_DEVICE, Settings
from worker.errors import NoModelError

# A function that is on its way to become a verb.
Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

EXPORTED: Final = ("torchscript", "exported")
ENGINES: Final = (*EXPORTED, "eager", "compile", "onnx")
PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8")


def read_settings(**options: Any) -> Settings:
    """Return the settings with options of the command line; a model has to be where it is said.

    Raises:
        SettingsError: a value cannot be used.
        NoModelError: there is no model of that name.
    """
    settings = Settings.from_env(**options)
    if problem := no_model(settings.model):
        raise NoModelError(problem)
    return settings


def model_option(command: Command) -> Command:
    """Add --model, for verbs that do not serve it."""
    return click.option(
        "--model",
        metavar="ARTIFACT|DIR|ID",
        help="Artifact, or a Hugging Face directory or id. [default: bundled]",
    )(command)


def device_option(purpose: str) -> Decorator:
    """Return what adds --device; its help begins with the purpose."""
    return click.option(
        "--device",
        metavar="auto|cpu|cuda[:n]",
        callback=_device,
        help=f"{purpose} [default: auto]",
    )


def file_option(kind: str, purpose: str) -> Decorator:
    """Return what adds an option such as --json for a file to write, which comes as `json_file`."""
    return click.option(
        f"--{kind}",
        f"{kind}_file",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_in_a_directory,
        metavar="FILE",
        help=purpose,
    )


def _device(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    if name is not None and not DEVICE.fullmatch(name):
        raise click.BadParameter(_(NO_DEVICE).format(wanted=name))
    return name


def _in_a_directory(
    _context: click.Context, _option: click.Parameter, file: Path | None
) -> Path | None:
    """Refuse at once what could not be written after minutes of work."""
    if file is not None and not file.parent.is_dir():
        raise click.BadParameter(_("{path} does not exist").format(path=file.parent))
    return file
