"""Hugging Face id or directory -> transformers model with its processor and tokenizer.

Whatever fails is one sentence: the libraries below raise a dozen kinds of errors, at length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from worker.artifact.manifest import Source
from worker.artifact.model_names import no_source
from worker.contract.i18n import Message
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.files import open_regular
from worker.contract.settings import expanded
from worker.errors import ExportError, NoModelError
from worker.model.attempt import attempt, library_reason
from worker.model.model_files import WEIGHTS, check_files, check_processor
from worker.model.side_files import PROCESSOR_FILES, TOKENIZER_FILES
from worker.model.towers import ZERO_SHOT

_FILES: Final = ("*.json", "*.txt", "*.model")
# In folders of a repository lie other forms of the same model, and checkpoints of its training.
_FOLDERS: Final = ("*/*",)
# One of these makes a tokenizer; without any, transformers hands out an empty one, silently.
_TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_FAST: Final = _TOKENIZER_FILES[0]
# transformers loads the models of timm, whose config.json says how images are prepared.
_TIMM: Final = "timm_wrapper"
_ID_DIGITS: Final = 12


class Found(NamedTuple):
    """Where a model's files are, and which."""

    directory: Path
    source: Source


class Loaded(NamedTuple):
    """A transformers model in float32, ready to be exported. A classifier has no tokenizer.

    `fast_tokenizer` is what a worker reads texts with, if that is not the backend of `tokenizer`,
    the model's own. Without a processor, images are prepared as the recipe says.
    """

    model: Any
    processor: Any | None
    tokenizer: Any | None
    source: Source
    fast_tokenizer: Tokenizer | None = None


def find(name: str, revision: str | None, echo: Callable[[str], None]) -> Found:
    """Return the directory of a model, downloaded if `name` is an id of the hub.

    `echo` is called before a download begins.

    Raises:
        ExportError: there is no such directory or id, or the hub cannot be reached.
    """
    if problem := no_source(name):
        raise NoModelError(problem)
    directory = expanded(name)
    if directory.is_dir():
        what = Message(N_("model {name!r}"), name=name)
        revision = attempt(lambda: _digest(directory), what)
        return Found(directory, Source(id=directory.resolve().name, revision=revision))
    echo(_("looking for {name} on the hub").format(name=name))
    try:
        return _download(name, revision)
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as e:
        raise ExportError(
            N_("there is no model {name!r}, neither as a directory here nor on the hub for you"),
            name=name,
        ) from e
    except RevisionNotFoundError as e:
        raise ExportError(
            N_("model {name!r} has no revision {revision!r}"), name=name, revision=revision
        ) from e
    except LocalEntryNotFoundError as e:
        raise ExportError(
            N_(
                "model {name!r} is no directory here, and the hub cannot be reached to download "
                "it: check the network, or give the directory of a model that was downloaded "
                "elsewhere"
            ),
            name=name,
        ) from e
    except OSError as e:
        raise ExportError(
            N_("model {name!r} cannot be downloaded: {reason}"), name=name, reason=library_reason(e)
        ) from e


def load(found: Found) -> Loaded:
    """Load a model that was found.

    Raises:
        ExportError: its architecture cannot be exported, or something of it is missing or broken.
    """
    directory, name = found.directory, found.source.id
    model = load_model(directory, name)
    if model.config.model_type != _TIMM:
        check_processor(directory, name)
    processor = attempt(
        lambda: AutoImageProcessor.from_pretrained(directory, trust_remote_code=False),
        Message(N_("the image processor of {name!r}"), name=name),
        _there(directory, PROCESSOR_FILES),
    )
    if model.config.model_type not in ZERO_SHOT:
        return Loaded(model, processor, None, found.source)
    own, fast = _tokenizers(directory, name)
    return Loaded(model, processor, own, found.source, fast)


def load_model(directory: Path, name: str) -> Any:
    """Load the model of a directory in float32, ready for inference.

    Raises:
        ExportError: as for `load`.
    """
    quiet()
    attempt(lambda: check_files(directory, name), Message(N_("model {name!r}"), name=name))
    config = attempt(
        lambda: AutoConfig.from_pretrained(directory, trust_remote_code=False),
        Message(N_("the config of {name!r}"), name=name),
    )
    zero_shot = config.model_type in ZERO_SHOT
    if not zero_shot and type(config) not in AutoModelForImageClassification._model_mapping:  # noqa: SLF001
        raise ExportError(
            N_("model {name!r} is a {kind}: only {kinds} and image classifiers can be exported"),
            name=name,
            kind=config.model_type,
            kinds=", ".join(ZERO_SHOT),
        )
    kind = AutoModel if zero_shot else AutoModelForImageClassification
    return _weights(kind, _without_repetition(config), directory, name)


def quiet() -> None:
    """Keep transformers from printing: what matters is raised, or printed by the exporter."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _download(name: str, revision: str | None) -> Found:
    for weights in WEIGHTS:
        path = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[*_FILES, *weights],
                ignore_patterns=list(_FOLDERS),
            )
        )
        if any(any(path.glob(pattern)) for pattern in weights):
            break
    # The hub's cache calls a snapshot's directory by its commit.
    return Found(path, Source(id=name, revision=path.name))


def _without_repetition(config: Any) -> Any:
    """Return the config of a model of timm without what transformers would say a second time."""
    if config.model_type == _TIMM and config.model_args:
        config.model_args.pop("num_classes", None)
    return config


def _weights(kind: Any, config: Any, directory: Path, name: str) -> Any:
    """Return the model; transformers would fill in random weights where its file lacks any."""
    model, info = attempt(
        lambda: kind.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            # It lists them, where transformers would only print which they are.
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        ),
        Message(N_("the weights of {name!r}"), name=name),
    )
    if others := sorted(info["mismatched_keys"]):
        raise _misfit(others[0], config, name)
    if lacking := sorted(info["missing_keys"]):
        raise ExportError(
            N_("the weights of {name!r} lack {count} that the model needs: {first} ..."),
            name=name,
            count=len(lacking),
            first=lacking[0],
        )
    return model.eval()


def _misfit(other: tuple[str, Sequence[int], Sequence[int]], config: Any, name: str) -> ExportError:
    """Return what is wrong with a weight that has another shape than the config asks for."""
    key, found, wanted = other[0], tuple(other[1]), tuple(other[2])
    if wanted[:1] == (config.num_labels,) and found[1:] == wanted[1:]:
        return ExportError(
            N_("id2label in config.json names {names} classes, and the weights have {weights}"),
            names=wanted[0],
            weights=found[0],
        )
    return ExportError(
        N_("the weights of {name!r} do not fit its config.json: {key} is {found}, not {wanted}"),
        name=name,
        key=key,
        found=" x ".join(map(str, found)),
        wanted=" x ".join(map(str, wanted)),
    )


def _digest(directory: Path) -> str:
    """Return the sha256 over a directory's files, first 12 digits: which weights these are."""
    total = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        # The libraries below open some of them by name, and would wait for a FIFO.
        if file.exists() and not file.is_dir():
            with open_regular(file) as stream:
                total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{total.hexdigest()[:_ID_DIGITS]}"


def _tokenizers(directory: Path, name: str) -> tuple[Any, Tokenizer]:
    """Return the model's own tokenizer and its fast form, which may be that of a file beside it."""
    if not any(any(directory.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ExportError(
            N_(
                "model {name!r} comes without a tokenizer, which is one of {files}: copy it from "
                "where the model comes from"
            ),
            name=name,
            files=", ".join(_TOKENIZER_FILES),
        )
    what = Message(N_("the tokenizer of {name!r}"), name=name)
    if not (directory / _FAST).exists():
        others = _there(directory, (*TOKENIZER_FILES, *_TOKENIZER_FILES))
        own = attempt(lambda: _own_tokenizer(directory), what, others)
        if not getattr(own, "is_fast", False):
            raise ExportError(
                N_("the tokenizer of {name!r} has no fast form: save it with a {file} first"),
                name=name,
                file=_FAST,
            )
        return own, own.backend_tokenizer
    attempt(
        lambda: Tokenizer.from_file(str(directory / _FAST)),
        Message(N_("{file} of {name!r}"), file=_FAST, name=name),
    )
    others = _there(directory, TOKENIZER_FILES)
    fast = attempt(lambda: PreTrainedTokenizerFast.from_pretrained(directory), what, others)
    try:
        own = _own_tokenizer(directory)
    except Exception:  # noqa: BLE001 - a library for the slow form is missing: the fast one is here
        return fast, fast.backend_tokenizer
    return own, (own if getattr(own, "is_fast", False) else fast).backend_tokenizer


def _own_tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def _there(directory: Path, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if (directory / name).exists()))
