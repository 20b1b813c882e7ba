"""worker.contract.redis_address, and worker.contract.secret's URLs"""

from __future__ import annotations

import traceback

import pytest
from odd_urls import ODD_URLS, SECRETS

from worker.contract.redis_address import AddressError, RedisAddress, parse
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings, SettingsError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://localhost", "redis://localhost"),
        ("redis://:pw@localhost", "redis://:***@localhost"),
        ("redis://me:pw@host:6380/1", "redis://***:***@host:6380/1"),
        ("redis://p:w:pw@host", "redis://***:***@host"),
        ("redis://:p@w@host", "redis://:***@host"),
        ("redis://h?db=3", "redis://h?db=3"),
        ("redis://:p%2Fw@[::1]:7/2", "redis://:***@[::1]:7/2"),
        ("rediss://:pw@h/0?ssl_password=pw&ssl_ca_certs=/ca.pem", "rediss://:***@h/0"),
        ("unix://:pw@/run/redis.sock?db=2", "unix://:***@/run/redis.sock?db=2"),
        (
            "sentinel://:pw@a:1,b/3?sentinel_password=pw&service=m",
            "sentinel://:***@a:1,b/3?service=m",
        ),
        ("redis://:p/w@x:6379/0", "redis://***"),
        ("redis://[::1:pw@x", "redis://***:***@x"),
        ("amqp://me:pw@x//", "amqp://***"),
        ("pw://x", "***"),
        ("redis:pw@x", "***"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert str(SecretUrl(url)) == shown


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://", {"hosts": (("localhost", 6379),)}),
        ("redis:///3", {"hosts": (("localhost", 6379),), "db": 3}),
        ("REDIS://Host", {"hosts": (("Host", 6379),)}),
        ("redis://h:7/12", {"hosts": (("h", 7),), "db": 12}),
        ("redis://h/?db=4", {"hosts": (("h", 6379),), "db": 4}),
        ("redis://h/4?db=4", {"hosts": (("h", 6379),), "db": 4}),
        ("redis://[fe80::1]:7/0", {"hosts": (("fe80::1", 7),)}),
        ("redis://my_redis.example-1:7", {"hosts": (("my_redis.example-1", 7),)}),
        ("redis://:p%2F%23%3F%40%3A%25%20+w@h", {"password": "p/#?@:% +w"}),
        ("redis://m%40e:p:w@h", {"user": "m@e", "password": "p:w"}),
        ("redis://:密码@h", {"password": "密码"}),
        ("rediss://h", {"tls": {"ssl_cert_reqs": "required", "ssl_check_hostname": True}}),
        (
            "rediss://h?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=/a%20b.pem",
            {
                "tls": {
                    "ssl_cert_reqs": "none",
                    "ssl_check_hostname": False,
                    "ssl_ca_certs": "/a b.pem",
                }
            },
        ),
        ("unix:///run/r.sock", {"kind": "unix", "path": "/run/r.sock", "hosts": ()}),
        (
            "redis+socket://me:pw@/run/a%40b.sock?virtual_host=2",
            {"path": "/run/a@b.sock", "db": 2, "user": "me", "password": "pw"},
        ),
        (
            "sentinel://me:pw@a,b:2,[::1]:3/1?service=my-master",
            {
                "kind": "sentinel",
                "hosts": (("a", 26379), ("b", 2), ("::1", 3)),
                "db": 1,
                "service": "my-master",
                "user": "me",
                "password": "pw",
                "tls": None,
            },
        ),
        (
            "sentinels://a?service=m&sentinel_user=s&sentinel_password=p%26w",
            {"sentinel_user": "s", "sentinel_password": "p&w"},
        ),
    ],
)
def test_a_url_that_is_right_is_understood(url: str, found: dict[str, object]) -> None:
    address = parse(url)
    assert {name: getattr(address, name) for name in found} == found


@pytest.mark.parametrize("url", ODD_URLS)
def test_one_that_is_not_is_a_sentence_and_shows_no_part_of_a_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"WANWU_BROKER_URL": url})
    text = "".join(traceback.format_exception(caught.value)) + repr(SecretUrl(url))
    assert not [secret for secret in SECRETS if secret in text], text
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    with pytest.raises(SettingsError):
        Settings.from_env({"WANWU_RESULT_URL": url})
    with pytest.raises(AddressError):
        _ = SecretUrl(url).address


def test_doubtful_ones_say_how_to_escape() -> None:
    for url in ODD_URLS:
        problem = SecretUrl(url).problem
        if url.startswith("redis://") and "@" in url and "?db" not in url:
            assert "%" in problem, (url, problem)


def test_an_address_shows_no_password_either() -> None:
    address = parse("sentinel://geheim:geheim@h?service=m&sentinel_password=geheim")
    assert isinstance(address, RedisAddress)
    assert "geheim" not in f"{address} {address!r}"


def test_passwords_of_sentinels_and_files_of_tls_join_the_url() -> None:
    variables = {
        "WANWU_BROKER_URL": "sentinel://:pw@a,b/0?service=m",
        "WANWU_RESULT_URL": "redis://x/1",
        "WANWU_SENTINEL_USER": "watch",
        "WANWU_SENTINEL_PASSWORD": "s &?",
    }
    settings = Settings.from_env(variables)
    address = settings.broker_url.address
    assert (address.sentinel_user, address.sentinel_password) == ("watch", "s &?")
    assert settings.result_url.reveal() == "redis://x/1"
    assert "s &?" not in repr(settings)
