"""worker.contract.settings"""

from __future__ import annotations

import click
import pytest

from worker.cli.start import start
from worker.contract.queue.app import make_app
from worker.contract.settings import IMAGE_FORMATS, Settings, SettingsError
from worker.contract.settings_help import GROUPS


def test_defaults_need_no_environment() -> None:
    settings = Settings.from_env({})
    assert settings.largest_batch == 4
    assert settings.results == settings.broker_url


def test_every_setting_is_explained_once_in_whole_sentences() -> None:
    explained = [(name, entry) for group in GROUPS.values() for name, entry in group.items()]
    assert sorted(name for name, _ in explained) == sorted(Settings.__struct_fields__)
    assert all(entry.meaning.endswith(".") for _, entry in explained)


def test_the_command_line_wins_over_the_environment() -> None:
    environ = {"WANWU_MAX_BATCH": "8", "WANWU_DEVICE": "cpu"}
    settings = Settings.from_env(environ, max_batch=2, device=None)
    assert (settings.max_batch, settings.device) == (2, "cpu")


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_env({"WANWU_MAX_BATCH": ""}).largest_batch == 4


@pytest.mark.parametrize("environ", [{}, {"WANWU_MAX_BATCH": "8"}])
def test_an_automatic_batch_is_left_open_whatever_the_environment_says(
    environ: dict[str, str],
) -> None:
    assert Settings.from_env(environ, max_batch="auto").max_batch is None
    assert Settings.from_env({"WANWU_MAX_BATCH": "auto"}).max_batch is None


def test_the_command_line_takes_an_automatic_batch() -> None:
    (option,) = [one for one in start.params if one.name == "max_batch"]
    assert [option.type.convert(text, None, None) for text in ("auto", "16")] == ["auto", 16]
    with pytest.raises(click.UsageError):
        option.type.convert("0", None, None)


def test_items_of_lists_are_separated_by_commas() -> None:
    found = Settings.from_env({"WANWU_IMAGE_ROOTS": "/a, /b c:d,", "WANWU_IMAGE_URLS": "s3://a/,*"})
    assert found.image_roots == ("/a", "/b c:d")
    assert found.image_urls == ("s3://a/", "*")


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("JPEG, png", ("JPEG", "PNG")),
        ("+SLOW", (*IMAGE_FORMATS, "SLOW")),
        ("+icns, SLOW", (*IMAGE_FORMATS, "ICNS", "SLOW")),
    ],
)
def test_formats_are_those_that_are_named_or_come_beside_those_by_default(
    text: str, formats: tuple[str, ...]
) -> None:
    assert Settings.from_env({"WANWU_IMAGE_FORMATS": text}).image_formats == formats


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("MAX_BATCH", "x", "a whole number, without a unit is wanted"),
        ("MAX_BATCH", "0", "a whole number from 1 up is wanted"),
        ("DECODE_MEMORY_BYTES", "1GB", "a whole number, without a unit is wanted"),
        ("MONITOR_PORT", "70000", "a whole number up to 65535 is wanted"),
        ("TASK_EVENTS", "maybe", "1 or 0 is wanted"),
        ("DECODE", "slow", "one of auto, exact, fast is wanted"),
        ("VISIBILITY_TIMEOUT_S", "-1", "a whole number from 1 up is wanted"),
        ("IMAGE_FORMATS", "+HEIC", "HEIC is none of JPEG"),
    ],
)
def test_a_bad_value_is_told_with_its_variable(name: str, value: str, wanted: str) -> None:
    with pytest.raises(SettingsError, match=f"WANWU_{name}: {wanted}"):
        Settings.from_env({f"WANWU_{name}": value})


def test_a_broker_that_is_not_redis_is_refused_without_its_password() -> None:
    with pytest.raises(SettingsError, match="only redis://") as caught:
        Settings.from_env({"WANWU_BROKER_URL": "amqp://me:geheim@host//"})
    assert "geheim" not in str(caught.value)


def test_secrets_are_masked_in_the_repr() -> None:
    settings = Settings.from_env({"WANWU_BROKER_URL": "rediss://me:geheim@host:6380/1"})
    assert "geheim" not in repr(settings)
    assert "rediss://***:***@host:6380/1" in repr(settings)


def test_chunks_in_flight_fill_two_batches_even_with_one_image_each() -> None:
    assert Settings.from_env({}, max_batch=4).concurrency >= 8


@pytest.mark.parametrize(("text", "tells"), [("", True), ("1", True), ("0", False)])
def test_workers_tell_of_their_tasks_unless_they_are_not_to(text: str, tells: bool) -> None:
    settings = Settings.from_env({"WANWU_TASK_EVENTS": text})
    app = make_app(settings, stores_results=True)
    assert app.conf.worker_send_task_events is tells


@pytest.mark.parametrize("key", ["密码", "x ", " x", "x\n", "a\tb", "\udcff"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="WANWU_API_KEY") as caught:
        Settings.from_env({"WANWU_API_KEY": key})
    assert key not in str(caught.value)
    assert Settings.from_env({"WANWU_API_KEY": "two words"}).api_key.reveal() == "two words"
