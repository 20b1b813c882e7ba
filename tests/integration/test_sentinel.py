"""A service of sentinels, with real ones: every client finds the master, and what is wrong is said.

What a failover in the middle of a job costs is tried in tests/acceptance/test_failover.py.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from conftest import Fleet, run, until
from flowers import flower_at
from images import fill
from sentinels import NAME, Service

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.messages import QUEUE
from worker.contract.redis.connections import BrokerUnreachableError, connect, retrying_client
from worker.contract.redis.pools import ServicePool
from worker.contract.redis.replicas import ReplicationError, await_replicas
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings

pytestmark = pytest.mark.integration

PASSWORD, SENTINELS_OWN = "geheim-eins", "geheim-zwei"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("service")
    with Service(directory, password=PASSWORD, sentinel_password=SENTINELS_OWN) as running:
        yield running


def given(service: Service, **others: str) -> dict[str, Any]:
    return {"broker_url": service.url, "sentinel_password": SENTINELS_OWN, **others}


def url_of(settings: dict[str, Any]) -> SecretUrl:
    return Settings.from_env({}, **settings).broker_url


def test_images_are_tagged_over_sentinels_and_no_password_is_told(
    service: Service, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 12)
    worker = fleet.start(service.url, sentinel_password=SENTINELS_OWN)
    out = tmp_path / "out.jsonl"
    done = run("producer", "submit", str(tmp_path / "photos"), "--out", str(out), **given(service))
    assert done.returncode == 0, done.stderr
    assert len(out.read_text(encoding="utf-8").splitlines()) == 12
    seen = [done.stderr]
    for argv in (("status",), ("doctor", str(tmp_path / "photos"))):
        shown = run("producer", *argv, **given(service))
        assert shown.returncode == 0, shown.stdout + shown.stderr
        seen += [shown.stdout, shown.stderr]
    assert worker.stop() == 0
    for text in (*seen, worker.text):
        assert PASSWORD not in text
        assert SENTINELS_OWN not in text
    assert f"?service={NAME}" in worker.text


def test_flower_listens_and_looks_over_sentinels(
    service: Service, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 12)
    with flower_at(service.url, tmp_path, sentinel_password=SENTINELS_OWN) as flower:
        sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", **given(service))
        assert sent.returncode == 0, sent.stderr
        view = flower.wait("/api/throughput", lambda view: view["backlog_images"] == 12)
        assert view["redis_up"]
        (depth,) = flower.get("/api/queues/length")["active_queues"]
        with connect(url_of(given(service))) as client:
            assert depth == {"name": QUEUE, "messages": client.llen(KEYS.queue)}
        assert f'id="{QUEUE}"' in flower.get("/broker")
        worker = fleet.start(service.url, sentinel_password=SENTINELS_OWN)
        assert sum(one["images"] for one in flower.succeeded(2)) == 12
        pages = flower.get("/workers") + flower.get("/broker")
        assert worker.stop() == 0
    seen = (tmp_path / "flower.log").read_text(encoding="utf-8")
    for secret in (PASSWORD, SENTINELS_OWN):
        assert secret not in seen + pages


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sentinel_password": "wrong"}, "the sentinels refuse the name or the password"),
        ({"sentinel_password": ""}, "the sentinels refuse the name or the password"),
        ({"password": "wrong"}, "is the password right?"),
        ({"service": "another"}, "the sentinels know no master of another"),
        ({"places": "127.0.0.1:1,127.0.0.1:2"}, f"no sentinel of {NAME} answers"),
        ({"places": "servers", "sentinel_password": PASSWORD}, "is no sentinel"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    service: Service, change: dict[str, str], sentence: str
) -> None:
    places = ",".join(f"127.0.0.1:{port}" for port in service.sentinel_ports)
    url = service.url.replace(NAME, change.pop("service", NAME))
    url = url.replace(PASSWORD, change.pop("password", PASSWORD))
    servers = ",".join(f"127.0.0.1:{port}" for port in service.ports)
    url = url.replace(places, change.pop("places", places).replace("servers", servers))
    settings = given(service, **change) | {"broker_url": url}
    with pytest.raises(
        BrokerUnreachableError, match="cannot reach Redis at sentinel://:"
    ) as caught:
        connect(url_of(settings))
    assert sentence in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_doctor_names_the_setting_of_the_sentinels_password(service: Service) -> None:
    seen = run("producer", "doctor", **given(service, sentinel_password=""))
    assert seen.returncode == 1
    assert "-> put the sentinels' own password into WANWU_SENTINEL_PASSWORD" in seen.stdout


def test_a_sentinel_that_is_taken_for_a_server_is_named(service: Service) -> None:
    url = f"redis://:{SENTINELS_OWN}@127.0.0.1:{service.sentinel_ports[0]}/0"
    done = run("producer", "status", broker_url=url)
    assert done.returncode == 1
    assert "is a sentinel" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_clients_leave_a_master_that_was_replaced_though_it_goes_on(service: Service) -> None:
    """For ten seconds and more it takes writes, which are lost when it becomes a replica."""
    client: Any = retrying_client(url_of(given(service)))
    pool = client.connection_pool
    assert isinstance(pool, ServicePool)
    client.set("before", 1)
    old = service.fail_over()
    until(lambda: bool(client.set("soon", 1)) and pool.moves >= 1)
    client.set("after", 1)
    with service.client(service.master()) as here:
        assert here.exists("before", "after") == 2
    with service.client(old) as there:
        is_master = there.role()[0] == b"master"
        assert not (there.exists("after") and is_master)
    service.await_replicas()


def test_what_was_sent_is_awaited_on_replicas_or_known_to_be_lost(service: Service) -> None:
    client = retrying_client(url_of(given(service)))
    client.set("sent", 1)
    await_replicas(client, KEYS, 1, 60.0)
    replica = next(port for port in service.ports if port != service.master())
    with service.client(replica) as there:
        assert there.exists("sent")
    with pytest.raises(ReplicationError, match="only 1 of 2 replicas"):
        await_replicas(client, KEYS, 2, 0.0)

    # Another master that has not got the mark: here it is taken away while it is waited for.
    def lose() -> None:
        with connect(url_of(given(service))) as other:
            until(lambda: bool(other.keys(KEYS.replicated("*"))))
            for mark in other.keys(KEYS.replicated("*")):
                other.delete(mark)

    losing = threading.Thread(target=lose)
    losing.start()
    with pytest.raises(ReplicationError, match="another master has not got"):
        await_replicas(client, KEYS, 2, 240.0)
    losing.join()


def test_without_the_setting_nothing_is_awaited() -> None:
    nowhere = redis.Redis(port=1)
    await_replicas(nowhere, KEYS, 0, 0.0)


def test_sentinels_and_servers_speak_tls(tmp_path: Path) -> None:
    if not (found := shutil.which("redis-sentinel")):
        pytest.skip("needs a Redis with TLS: apt-get install redis-sentinel")
    # The same program; what it is, it takes from its name.
    program = tmp_path / "redis-server"
    program.symlink_to(Path(found).resolve())
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    with Service(tmp_path, password=PASSWORD, tls=tmp_path, program=str(program)) as service:
        ca = str(tmp_path / "ca.pem")
        with connect(url_of({"broker_url": service.url, "tls_ca": ca})) as client:
            assert client.set("a", 1)
        with pytest.raises(BrokerUnreachableError):
            connect(url_of({"broker_url": service.url}))
