"""Environment -> Settings, read once and passed on. Command line > environment > default."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from worker.contract.cpus import usable_cpus
from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import DEFAULT_PREFIX, Keys
from worker.contract.reasons import reason
from worker.contract.secret import Secret, SecretUrl

Positive = Annotated[int, Meta(ge=1)]
PREFIX: Final = "WANWU_"
DEFAULT_BATCH: Final = 4
# Beyond any GPU's need, and any machine's cores: more is a slip of the finger, and never starts.
MOST_BATCH: Final = 1024
MOST_THREADS: Final = 1024
# A value of `max_batch`: as if it were not set, whatever is set elsewhere.
AUTO: Final = "auto"
# What people keep pictures in; MPO comes with JPEG.
IMAGE_FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "PSD"),
)
# Little used, so that few eyes have seen their decoders; and whatever is decoded by a loop in
# Python: PPM as text, BMP with run lengths, QOI, some DDS, SGI of 16 bits.
SLOW: Final = "SLOW"
MORE_FORMATS: Final = ("ICNS", "QOI", "DDS", "SGI", "PCX", "TGA", SLOW)
# Several copies of the largest image, and what libraries take whatever the image.
_PIXEL_BYTES: Final = 16
_DECODE_BASE_BYTES: Final = 256 * 1024 * 1024
_URGENT_FETCH_S: Final = 10.0

S = TypeVar("S", bound="Settings")
# What a header of HTTP carries as it is.
_API_KEY: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
# Where a model runs: on the fastest, on the CPU, on the first GPU or on one by its number.
DEVICE: Final = re.compile(r"auto|cpu|cuda(?::(?P<index>\d+))?")
NO_DEVICE: Final = N_("device {wanted!r} is none of auto, cpu, cuda and cuda:n")
_LISTS: Final = frozenset({"image_roots", "image_urls", "image_formats", "api_hosts"})
_SEPARATOR: Final = ","
# Before the first format: those by default, and these.
_ADDED: Final = "+"
# What msgspec says of a value -> what is wanted.
_WANTED: Final = (
    (r"Expected `int(?: \| null)?` >= (?P<least>\d+)", N_("a whole number from {least} up")),
    (r"Expected `int(?: \| null)?` <= (?P<most>\d+)", N_("a whole number up to {most}")),
    (r"Expected `int(?: \| null)?`, got .+", N_("a whole number, without a unit")),
    (r"Expected `bool`, got .+", N_("1 or 0")),
)


class SettingsError(TranslatedError, ValueError):
    """A setting has a value that cannot be used."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Field `max_batch` is read from `WANWU_MAX_BATCH`, and so on.

    What each means, and to whom it matters, stands in `settings_help`. Sizes are in bytes or
    pixels, times in seconds, as the names say. An empty variable counts as not set. Items of a
    list are separated by commas.
    """

    # Redis
    broker_url: SecretUrl = SecretUrl("redis://localhost:6379/0")
    result_url: SecretUrl = SecretUrl()
    sentinel_user: str = ""
    sentinel_password: Secret = Secret()
    prefix: str = DEFAULT_PREFIX
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    result_ttl_s: Positive = 86_400
    visibility_timeout_s: Positive = 60
    redis_retry_timeout_s: Positive = 600
    redis_wait_replicas: Annotated[int, Meta(ge=0)] = 0

    # Model
    model: str = ""
    device: str = "auto"
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    engine: Literal["auto", "torchscript", "exported", "eager", "compile", "onnx"] = "auto"
    threads: Annotated[int, Meta(ge=0, le=MOST_THREADS)] = 0
    max_batch: Annotated[int, Meta(ge=1, le=MOST_BATCH)] | None = None

    # Worker
    image_roots: tuple[str, ...] = ()
    image_urls: tuple[str, ...] = ()
    decode: Literal["auto", "exact", "fast"] = "auto"
    decoder: Literal["auto", "processes", "threads"] = "auto"
    decode_threads: Annotated[int, Meta(ge=0)] = 0
    decode_timeout_s: Positive = 20
    fetch_timeout_s: Positive = 30
    decode_memory_bytes: Annotated[int, Meta(ge=0)] = 0
    image_formats: tuple[str, ...] = IMAGE_FORMATS
    prefetch_chunks: Annotated[int, Meta(ge=0)] = 0
    max_pixels: Positive = 200_000_000
    jpeg_max_side: Annotated[int, Meta(ge=0)] = 4000
    max_file_bytes: Positive = 256 * 1024 * 1024
    embedding_cache_size: Annotated[int, Meta(ge=0)] = 0
    stall_timeout_s: Positive = 120
    monitor_host: str = "127.0.0.1"
    monitor_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    task_events: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # HTTP API
    api_key: Secret = Secret()
    api_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse brokers that the rest of the program cannot speak to."""
        if not self.broker_url:
            raise SettingsError(N_("the URL of Redis is empty"))
        for url in (self.broker_url, self.result_url):
            if url.problem:
                problem = Message(url.problem)
                raise SettingsError(N_("{url}: {problem}"), url=url, problem=problem)
        for name in self.image_formats:
            if name not in (*IMAGE_FORMATS, *MORE_FORMATS):
                known = ", ".join((*IMAGE_FORMATS, *MORE_FORMATS))
                raise SettingsError(
                    N_("WANWU_IMAGE_FORMATS: {name} is none of {known}"), name=name, known=known
                )
        if not DEVICE.fullmatch(self.device):
            problem = Message(NO_DEVICE, wanted=self.device)
            raise SettingsError(
                N_("{setting}: {problem}"), setting=f"{PREFIX}DEVICE", problem=problem
            )
        if not _API_KEY.fullmatch(self.api_key.reveal()):
            raise SettingsError(
                N_("WANWU_API_KEY: only ASCII characters are allowed, and no blanks at either end")
            )
        try:
            Keys(self.prefix)
        except ValueError as e:
            raise SettingsError(
                N_("WANWU_PREFIX: 1 to 64 of the characters 0-9 A-Z a-z _ . : - are allowed")
            ) from e

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: object) -> Self:
        """Read `WANWU_*`; an override that is not None wins.

        Raises:
            SettingsError: naming the variable or option whose value cannot be used.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            text = environ.get(PREFIX + name.upper(), "")
            if text:
                values[name] = _items(text) if name in _LISTS else text
        if "image_formats" in values:
            values["image_formats"] = _formats(values["image_formats"])
        values |= {name: value for name, value in overrides.items() if value is not None}
        if values.get("max_batch") == AUTO:
            del values["max_batch"]
        try:
            settings = msgspec.convert(values, cls, strict=False, dec_hook=_secret)
        except msgspec.ValidationError as e:
            raise _explained(e) from e
        return secured(settings)

    @property
    def results(self) -> SecretUrl:
        """URL of the result backend: the broker's own unless set apart."""
        return self.result_url or self.broker_url

    @property
    def keys(self) -> Keys:
        """The names of all that this installation has in Redis."""
        return Keys(self.prefix)

    @property
    def largest_batch(self) -> int:
        """Most images in a micro-batch: as set, or tuned (see `tuned_batch`), else 4."""
        return self.max_batch or DEFAULT_BATCH

    @property
    def decoders(self) -> int:
        """Decode threads: as set, else one per CPU that this process may use."""
        return self.decode_threads or usable_cpus().usable

    @property
    def fetch_deadline_s(self) -> float:
        """Seconds that fetching one image may take: ends well before the worker counts as hung."""
        return min(self.fetch_timeout_s, self.stall_timeout_s / 2)

    @property
    def urgent_fetch_deadline_s(self) -> float:
        """Seconds that fetching an urgent image may take: somebody waits for it, half a minute."""
        return min(self.fetch_deadline_s, _URGENT_FETCH_S)

    @property
    def decode_deadline_s(self) -> float:
        """Seconds that decoding one image may take on a core of its own.

        On a busy machine it may be three times as long, before the worker counts as hung.
        """
        return min(self.decode_timeout_s, self.stall_timeout_s / 4)

    @property
    def decode_memory(self) -> int:
        """Bytes that one image may take to decode: as set, else what the largest one needs."""
        return self.decode_memory_bytes or _DECODE_BASE_BYTES + _PIXEL_BYTES * self.max_pixels

    @property
    def concurrency(self) -> int:
        """Chunks held with which no other is asked for: two batches even with an image in each."""
        return self.prefetch_chunks or 2 * self.largest_batch + self.decoders

    @property
    def most_chunks(self) -> int:
        """Most chunks held at once, urgent ones included: they do not wait for others' threads."""
        return self.concurrency + 2 * self.largest_batch

    @property
    def images_in_flight(self) -> int:
        """Images held with which a worker asks for no other chunk: two batches, two per decoder."""
        return 2 * self.largest_batch + 2 * self.decoders


def _items(text: str) -> list[str]:
    """Return the items of a list, without blanks around them."""
    return [item.strip() for item in text.split(_SEPARATOR) if item.strip()]


def _formats(names: list[str]) -> list[str]:
    """Return the formats that are named; after a `+`, those by default as well."""
    wanted = _SEPARATOR.join(names).upper()
    added = wanted.removeprefix(_ADDED)
    return _items(added) if added == wanted else [*IMAGE_FORMATS, *_items(added)]


def expanded(path: str) -> Path:
    """Return a path whose `~` is the home directory; if there is none, it stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises


def _secret(kind: type, text: Any) -> Any:
    """Let msgspec read secrets, which are a type of ours."""
    if not issubclass(kind, Secret):
        raise NotImplementedError
    return text if isinstance(text, kind) else kind(str(text))


def secured(settings: S) -> S:
    """Return the settings with the URLs completed: all clients look for everything there.

    Raises:
        SettingsError: a file is missing, or only one of certificate and key is there.
    """
    files = {"tls_ca": settings.tls_ca, "tls_cert": settings.tls_cert, "tls_key": settings.tls_key}
    for name, file in files.items():
        if file and not Path(file).is_file():
            raise SettingsError(
                N_("{setting}: there is no file {file}"), setting=PREFIX + name.upper(), file=file
            )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SettingsError(N_("WANWU_TLS_CERT and WANWU_TLS_KEY belong together"))
    return msgspec.structs.replace(
        settings,
        broker_url=_completed(settings.broker_url, settings),
        result_url=_completed(settings.result_url, settings),
    )


def _completed(url: SecretUrl, settings: Settings) -> SecretUrl:
    """Return a URL with what other settings add to it, where it lacks that itself."""
    if not url:
        return url
    wanted: dict[str, str] = {}
    if url.address.kind == "sentinel":
        wanted["sentinel_user"] = settings.sentinel_user
        wanted["sentinel_password"] = settings.sentinel_password.reveal()
    if url.address.tls is not None:
        wanted["ssl_ca_certs"] = settings.tls_ca
        wanted["ssl_certfile"] = settings.tls_cert
        wanted["ssl_keyfile"] = settings.tls_key
    return url.with_parameters({name: value for name, value in wanted.items() if value})


def _explained(error: msgspec.ValidationError) -> SettingsError:
    """Turn msgspec's "... - at `$.max_batch`" into a sentence that names the variable."""
    if isinstance(error.__cause__, SettingsError):
        return error.__cause__
    text, _, where = str(error).partition(" - at `$.")
    setting = f"{PREFIX}{where.rstrip('`').upper()}"
    if not where:
        return SettingsError(reason(text))
    return SettingsError(
        N_("{setting}: {problem}"), setting=setting, problem=_problem(setting, text)
    )


def _problem(setting: str, text: str) -> Message:
    """Return what is wanted of a setting instead of what msgspec refuses."""
    if text.startswith("Invalid enum value"):
        choices = get_args(get_type_hints(Settings)[setting.removeprefix(PREFIX).lower()])
        return Message(N_("one of {values} is wanted"), values=", ".join(choices))
    for pattern, wanted in _WANTED:
        if found := re.fullmatch(pattern, text):
            value = Message(wanted, **found.groupdict())
            return Message(N_("{value} is wanted"), value=value)
    return reason(text)
