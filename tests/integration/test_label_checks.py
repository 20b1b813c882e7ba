"""What users are expected of labels that the bundled model cannot read or tell apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import urllib3
from conftest import PATIENCE_S, ROOT, Fleet, run
from images import fill
from serving import serving

from producer import Client, EncodingError, ServerError, UsageError
from worker.contract.labels import LabelPack
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.stores.jobs import JobStore

pytestmark = pytest.mark.integration

CAT = ROOT / "ops" / "examples" / "猫.jpg"
UNREAD = "the model knows single words, and these are none of them: "
ALIKE = "the model reads these labels as the same, so it would score them alike: "
PARTLY = "the model does not know all words of some labels, so their scores say less: "


@pytest.fixture(scope="module")
def queue(fleet: Fleet) -> Iterator[str]:
    with EmbeddedRedis() as server:
        fleet.start(server.url, model="")
        yield server.url


@pytest.fixture(scope="module")
def server(queue: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(queue, tmp_path_factory.mktemp("api") / "log") as base:
        yield base


def jobs(queue: str) -> int:
    with redis.Redis.from_url(queue) as client:
        return len(JobStore(client, 3600).list())


# The rows of the table in ops/docs/labels.md.
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["gato", "perro"], UNREAD + "gato, perro;"),
        (["猫", "perro"], UNREAD + "perro;"),
        (["🐱", "🐶"], UNREAD + "🐱, 🐶;"),
        (["猫 ", "猫　"], None),
        (["猫", "貓"], UNREAD + "貓;"),
        (["猫", "a cat"], ALIKE + "猫 = a cat;"),
        (["猫", "猫!"], ALIKE + "猫 = 猫!;"),
        (["猫", "猫咪"], ALIKE + "猫 = 猫咪;"),
    ],
)
def test_labels_are_refused_before_anything_is_sent(
    queue: str, labels: list[str], expected: str | None
) -> None:
    notes: list[str] = []
    before = jobs(queue)
    with Client(queue, on_note=notes.append) as client:
        if expected is None:
            assert len(list(client.tag(CAT, labels))) == 1
            return
        with pytest.raises(UsageError) as error:
            list(client.tag(CAT, labels))
    assert str(error.value).startswith(expected)
    assert jobs(queue) == before


def test_a_label_with_an_alias_that_is_known_is_used_and_named(queue: str) -> None:
    notes: list[str] = []
    with Client(queue, on_note=notes.append) as client:
        (record,) = client.tag(CAT, LabelPack(("gato", "狗"), aliases={"gato": ("猫",)}))
    assert record.tags[0].label == "gato"
    assert f"note: {PARTLY}gato (gato)" in notes


def test_the_command_says_so_in_the_language_of_its_user(
    queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = (
        "submit",
        str(CAT),
        "--label",
        "gato",
        "--label",
        "perro",
        "--out",
        str(tmp_path / "t.jsonl"),
    )
    done = run("producer", *argv, broker_url=queue)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"Error: {UNREAD}gato, perro;")
    assert not (tmp_path / "t.jsonl").exists()
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    done = run("producer", *argv, broker_url=queue)
    assert "模型只认识单个词语" in done.stderr.splitlines()[-1]


def test_the_http_api_refuses_them_as_well(server: str, queue: str) -> None:
    pool = urllib3.PoolManager(retries=False, timeout=PATIENCE_S)
    before = jobs(queue)
    body = {"labels": ["gato", "perro"], "images": [str(CAT)]}
    answer = pool.request("POST", f"{server}/jobs", json=body)
    assert answer.status == 422
    problem = json.loads(answer.data)
    assert problem["code"] == "labels_alike"
    assert problem["message"].startswith(UNREAD + "gato, perro;")
    assert jobs(queue) == before
    form: list[tuple[str, Any]] = [
        ("image", ("a.jpg", CAT.read_bytes())),
        ("label", "gato"),
        ("label", "perro"),
    ]
    answer = pool.request("POST", f"{server}/predict", fields=form)
    problem = json.loads(answer.data)
    assert (answer.status, problem["code"]) == (422, "labels_alike")
    assert problem["message"].startswith(UNREAD + "gato, perro;")
    with Client(server) as client, pytest.raises(ServerError, match=r"labels_alike: .*gato, perro"):
        list(client.tag(CAT, ["gato", "perro"]))


def test_labels_that_nobody_could_check_beforehand_fail_each_image(
    queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when no worker was online: the images are sent, and each ends in one record.
    monkeypatch.setattr("producer.backend.connection.Connection.check_labels", lambda *_: [])
    files = fill(tmp_path / "photos", 20)
    with Client(queue) as client:
        found = list(client.tag([str(file) for file in files], ["gato", "perro"]))
    assert len(found) == 20
    errors = {(one.error.code, one.error.message) for one in found if one.error}
    ((code, message),) = errors
    assert code == "labels_alike"
    assert message.startswith(UNREAD + "gato, perro;")


def test_kept_embeddings_are_not_searched_by_a_word_that_says_nothing(
    queue: str, tmp_path: Path
) -> None:
    with Client(queue) as client:
        list(client.tag(CAT, ["猫", "狗"], out=tmp_path / "t.parquet", embeddings=True))
        assert client.search("猫", tmp_path / "t.parquet")
        with pytest.raises(EncodingError, match=r"none of them: gato"):
            client.search("gato", tmp_path / "t.parquet")
