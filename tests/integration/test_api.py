"""The HTTP door: a real server in a process of its own, real workers, real uploads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
from conftest import PATIENCE_S, ROOT, Fleet, environment, run
from images import encoded, fill, picture
from playwright.sync_api import Browser, Page, expect, sync_playwright
from server import free_port

from producer import Client, NoSuchJobError, ServerError, UsageError
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child

pytestmark = pytest.mark.integration

EXAMPLES = ROOT / "ops" / "examples"
KEY = "a key of the tests"


class ApiCaller:
    """Asks the server."""

    def __init__(self, base: str, key: str = KEY) -> None:
        self.base = base
        self._pool = urllib3.PoolManager(headers={"X-API-Key": key}, retries=False)

    def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        answer = self._pool.request(method, f"{self.base}{path}", timeout=PATIENCE_S, **more)
        text = answer.data.decode()
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(text) if is_json else text

    def predict(self, data: bytes, name: str = "a.jpg", **fields: Any) -> tuple[int, Any]:
        form: list[tuple[str, Any]] = [("image", (name, data))]
        for key, value in fields.items():
            form += [(key, str(one)) for one in (value if isinstance(value, list) else [value])]
        return self.ask("POST", "/predict", fields=form)


@pytest.fixture(scope="module")
def queue() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="module")
def api(queue: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiCaller]:
    port, log = free_port(), tmp_path_factory.mktemp("api") / "log"
    with log.open("wb") as sink:
        child = start_child(
            [sys.executable, "-m", "producer.cli", "serve", "--port", str(port)],
            cwd=ROOT,
            env=environment(broker_url=queue, api_key=KEY, max_file_bytes="3000000"),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    found, ends_s = ApiCaller(f"http://127.0.0.1:{port}"), time.monotonic() + PATIENCE_S
    while True:
        try:
            found.ask("GET", "/health")
            break
        except urllib3.exceptions.HTTPError:
            assert time.monotonic() < ends_s, log.read_text()
            time.sleep(0.1)
    yield found
    assert stop_child(child, PATIENCE_S) in {0, 130}
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def worker(queue: str, fleet: Fleet) -> None:
    fleet.start(queue, model="")


def cat() -> bytes:
    return (EXAMPLES / "猫.jpg").read_bytes()


def test_one_image_gets_its_tags_and_times(api: ApiCaller, worker: None) -> None:
    status, reply = api.predict(cat(), label=["猫", "汽车"], top_k=1)
    assert status == 200, reply
    assert [one["label"] for one in reply["results"]] == ["猫"]
    assert set(reply["results"][0]) == {"label", "score"}
    assert reply["timing"]["infer_ms"] > 0
    assert reply["model"].startswith("wanwu-photo@")


def test_calibrated_scores_may_be_none_of_these(api: ApiCaller, worker: None) -> None:
    status, reply = api.predict(cat(), label=["汽车", "飞机"], calibrated=True)
    assert (status, reply["results"]) == (200, [])


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"data": b"no image"}, 422, "not_an_image"),
        ({"data": b""}, 422, "empty_file"),
        ({"data": b"x" * 3_100_000}, 413, "too_large"),
        ({"data": b"x", "top_k": 0}, 422, "bad_request"),
        ({"data": b"x", "threshold": "nan"}, 422, "bad_request"),
        ({"data": b"x", "label": " "}, 422, "bad_labels"),
        ({"data": b"x", "template": "no place"}, 422, "bad_labels"),
        ({"data": b"x", "label": "x" * 999}, 422, "bad_request"),
        ({"data": b"x", "label": ["x"] * 1001}, 400, "bad_request"),
    ],
)
def test_a_bad_request_has_a_code_and_a_sentence(
    api: ApiCaller, worker: None, fields: dict[str, Any], status: int, code: str
) -> None:
    found, reply = api.predict(**fields)
    assert (found, reply["code"]) == (status, code), reply
    assert reply["message"]


@pytest.mark.parametrize(
    ("url", "status"),
    [("/etc/passwd", 422), ("file:///etc/passwd", 422), ("http://127.0.0.1:1/x.jpg", 403)],
)
def test_a_url_is_fetched_only_from_where_workers_may(
    api: ApiCaller, worker: None, url: str, status: int
) -> None:
    assert api.ask("POST", "/predict", fields={"url": url})[0] == status


def test_nobody_comes_in_without_the_key(api: ApiCaller) -> None:
    other = ApiCaller(api.base, "another")
    assert other.predict(b"x")[0] == 401
    assert other.ask("GET", "/jobs/x")[0] == 401
    assert other.ask("GET", "/health")[0] == 200


def test_a_job_of_paths_streams_its_records(api: ApiCaller, worker: None, tmp_path: Path) -> None:
    photos = [str(path) for path in fill(tmp_path, 20)]
    body = {"images": [*photos, "/gone.jpg"], "labels": ["猫", "狗"], "top_k": 1}
    status, job = api.ask("POST", "/jobs", json=body)
    assert status == 201, job
    place = f"/jobs/{job['id']}/results"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: api.ask("GET", f"{place}?follow=true")[1], range(8)))
    for text in (*found, api.ask("GET", place)[1]):
        lines = [json.loads(line) for line in text.splitlines()]
        assert len(lines) == 21
        assert {line["path"] for line in lines} == {*photos, "/gone.jpg"}
    assert [line["error"]["code"] for line in lines if line["error"]] == ["not_found"]
    _, reply = api.ask("GET", f"/jobs/{job['id']}")
    assert (reply["state"], reply["images"], reply["failed"]) == ("finished", 21, 1)
    assert reply["codes"] == {"not_found": 1}


def test_images_are_uploaded_to_an_open_job(api: ApiCaller, worker: None) -> None:
    _, job = api.ask("POST", "/jobs", json={"open": True, "labels": ["猫"]})
    path = f"/jobs/{job['id']}"
    for number in range(3):
        files = [("images", (f"{number}-{n}.jpg", encoded(picture(n)))) for n in range(5)]
        status, reply = api.ask("POST", f"{path}/images", fields=files)
        assert (status, reply["images"]) == (200, 5 * (number + 1)), reply
    assert api.ask("POST", f"{path}/close")[1]["state"] in {"submitted", "finished"}
    assert api.ask("POST", f"{path}/images", fields=files)[0] == 409
    _, text = api.ask("GET", f"{path}/results?follow=true")
    names = sorted(json.loads(line)["path"] for line in text.splitlines())
    assert names == sorted(f"{a}-{b}.jpg" for a in range(3) for b in range(5))


def test_a_job_is_cancelled_and_one_that_is_not_there_is_told(api: ApiCaller, worker: None) -> None:
    _, job = api.ask("POST", "/jobs", json={"open": True})
    assert api.ask("DELETE", f"/jobs/{job['id']}")[1]["state"] == "cancelled"
    _, done = api.ask("POST", "/jobs", json={"images": []})
    assert api.ask("DELETE", f"/jobs/{done['id']}") == (200, done | {"state": "finished"})
    for method, path in (("GET", "x"), ("DELETE", "x"), ("GET", "x/results"), ("POST", "x/close")):
        assert api.ask(method, f"/jobs/{path}")[0] == 404


@pytest.fixture
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not here")
    with sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def visited(browser: Browser, url: str, locale: str) -> Iterator[Page]:
    """Yield a page; it says nothing, and loads nothing from elsewhere."""
    page, asked, said = browser.new_page(locale=locale), [], []
    page.set_default_timeout(PATIENCE_S * 1000)
    expect.set_options(timeout=30_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.goto(url)
    yield page
    page.close()
    own = url.partition("/docs")[0]
    assert [one for one in asked if not one.startswith((own, "data:", "blob:"))] == []
    # Of an answer that is no success the browser says so itself.
    assert [one for one in said if "401" not in one] == []


def test_a_person_drops_an_image_and_sees_its_tags(
    api: ApiCaller, worker: None, browser: Browser
) -> None:
    with visited(browser, f"{api.base}/", "zh-CN") as page:
        expect(page.locator("h1")).to_have_text("给图片打标签")
        page.locator("#file").set_input_files(EXAMPLES / "猫.jpg")
        expect(page.locator("#status")).to_contain_text("API 密钥缺失或错误")
        page.locator("#language").click()
        expect(page.locator("h1")).to_have_text("Tags for an image")
        page.locator("#labels").fill("汽车, 猫\n飞机")
        page.locator("#file").set_input_files(EXAMPLES / "猫.jpg")
        expect(page.locator("#status")).to_contain_text("unauthorized")
        page.locator("#key").fill(KEY)
        page.locator("#key").blur()
        expect(page.locator("li b")).to_have_count(3)
        expect(page.locator("li b").first).to_have_text("猫")
        expect(page.locator("#about")).to_contain_text("wanwu-photo@")
        expect(page.locator("#name")).to_have_text("猫.jpg")
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert page.context.cookies() == []


def test_the_documents_load_nothing_from_elsewhere(api: ApiCaller, browser: Browser) -> None:
    with visited(browser, f"{api.base}/docs", "en-US") as page:
        expect(page.locator(".opblock")).to_have_count(8)
        page.locator("#operations-default-create_jobs_post").click()
        expect(page.locator(".opblock-body").first).to_contain_text("thumbnail_px")


def test_schemathesis_finds_no_error_of_the_server(
    api: ApiCaller, worker: None, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "run"),
            *(f"{api.base}/openapi.json", "-H", f"X-API-Key: {KEY}"),
            *("--checks", "not_a_server_error,response_schema_conformance"),
            *("--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing"),
            *("--exclude-path", "/jobs/{job}/results", "--request-timeout", str(PATIENCE_S)),
        ],
        # It keeps what it found where it runs.
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_a_laptop_submits_through_the_door(api: ApiCaller, worker: None, tmp_path: Path) -> None:
    photos = fill(tmp_path / "图", 40)
    (tmp_path / "图" / 'an "odd"\nname.jpg').write_bytes(photos[0].read_bytes())
    (tmp_path / "图" / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "图" / "empty.jpg").touch()
    labels, out = tmp_path / "labels.txt", tmp_path / "tags.jsonl"
    labels.write_text("猫 | 小猫 < 动物\n狗\n", encoding="utf-8")
    argv = ["producer", "submit", str(tmp_path / "图"), "--server", api.base]
    argv += ["--labels", str(labels), "--top-k", "2", "--embeddings", "--out", str(out)]
    done = run(*argv, broker_url="redis://127.0.0.1:1/0", api_key=KEY)
    assert done.returncode == 3, done.stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len({line["path"] for line in lines}) == 43
    codes = sorted(line["error"]["code"] for line in lines if line["error"])
    assert codes == ["empty_file", "not_an_image"]
    fine = [line for line in lines if line["status"] == "ok"]
    assert {tag.get("parent") for line in fine for tag in line["tags"]} == {"动物", None}
    assert all(line["embedding"] and line["file"]["size_bytes"] for line in fine)
    again = run(*argv, "--resume", broker_url="redis://127.0.0.1:1/0", api_key=KEY)
    assert len(out.read_text(encoding="utf-8").splitlines()) == 43, again.stderr
    again = run(*argv, broker_url="redis://127.0.0.1:1/0", api_key=KEY)
    assert again.returncode == 2
    assert f"{out} already holds 43 records: continue with --resume" in again.stderr
    argv.append("--overwrite")
    refused = run(*argv, broker_url="redis://127.0.0.1:1/0", api_key="another")
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith("unauthorized: give the API key as X-API-Key")
    away = run(*argv[:4], "http://127.0.0.1:1")
    assert away.returncode == 1
    assert "no answer from" in away.stderr


def test_the_python_api_does_the_same_over_http(
    api: ApiCaller, worker: None, tmp_path: Path
) -> None:
    photos = [str(path) for path in fill(tmp_path / "图", 40)]
    (tmp_path / "图" / "empty.jpg").touch()
    with Client(api.base, api_key=KEY) as client:
        stream = client.tag(tmp_path / "图", ["猫", "狗"], top_k=1)
        records = list(stream)
        assert sorted(record.path for record in records if record.status == "ok") == sorted(photos)
        assert [r.error and r.error.code for r in records if r.status == "failed"] == ["empty_file"]
        assert (stream.done, stream.failed, stream.total) == (41, 1, 41)
        job = client.submit(photos, ["猫"])
        assert len(list(client.results(job, wait=True))) == 40
        assert client.job(job).status == client.cancel(job).status == "finished"
        # An image that is sent twice has two records; one that nobody can read has one.
        odd = [photos[0], photos[0], str(tmp_path / "a\0b"), str(tmp_path / "\ud800.jpg")]
        again = list(client.tag(iter(odd), ["猫"]))
        assert [r.path for r in again if r.status == "ok"] == photos[:1] * 2
        assert [r.error.code for r in again if r.error] == ["not_found"] * 2
        with client.tag(photos, ["猫"]) as early:
            next(early)
        assert client.job(early.job).status in {"cancelled", "finished"}
        with pytest.raises(NoSuchJobError, match="there is no job"):
            client.job("no-job")
        with pytest.raises(NoSuchJobError):
            client.job(f"x/../{job}")
        with pytest.raises(UsageError, match="needs a Redis"):
            client.status()
    with (
        Client(api.base, api_key="another") as stranger,
        pytest.raises(ServerError, match="unauthorized"),
    ):
        stranger.submit(photos, ["猫"])
    assert "uploads" not in {thread.name for thread in threading.enumerate()}


def test_a_port_that_all_can_reach_needs_a_key() -> None:
    done = run("producer", "serve", "--address", "0.0.0.0")
    assert done.returncode == 2
    assert "WANWU_API_KEY" in done.stderr
