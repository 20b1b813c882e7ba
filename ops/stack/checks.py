"""What has to hold of a stack that runs: each function looks, and says what it saw."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

from ops.stack.engine import EngineError
from ops.stack.project import Project, health_of, service_of

BUILD_S: Final = 3600
SUBMIT_S: Final = 600
# A worker makes its model first.
READY_S: Final = 300
_PULL_S: Final = 120
_ANSWER_S: Final = 60
EXAMPLES: Final = 24
OURS: Final = ("producer", "worker", "flower", "api", "exporter")
_OF_OTHERS: Final = ("prometheus", "grafana")
_KILLED: Final = 137
_METRICS: Final = (
    "import sys, urllib.request as r; sys.stdout.write("
    "r.urlopen('http://127.0.0.1:{}/metrics', timeout=10).read().decode())"
)


class WrongError(Exception):
    """Something is not as it should be."""


def require(fact: object, options: str) -> None:
    """Raise WrongError unless `fact`."""
    if not fact:
        raise WrongError(options)


def build(project: Project) -> None:
    """Build every image that can be run here."""
    project.compose("--profile", "tools", "--profile", "http", "build", limit_s=BUILD_S)
    project.compose("build", "exporter", limit_s=BUILD_S)


def sizes(project: Project) -> list[str]:
    """Return how large the images are."""
    reply = []
    for name in ("producer", "flower", "worker"):
        size = project.engine.inspect(image_of(project, name))["Size"]
        reply.append(f"{name} {size / 1e6:,.0f} MB")
    return reply


def image_of(project: Project, service: str) -> str:
    """Return the name of a service's image."""
    return f"wanwu-tagger-{service}:{project.settings['IMAGE_TAG']}"


def healthy(project: Project, *services: str) -> str:
    """Wait until they are."""
    project.wait_until_healthy(*services, limit_s=READY_S)
    shown = project.compose("ps")
    require("unhealthy" not in shown, shown)
    return f"healthy: {', '.join(services)}"


def examples(project: Project) -> str:
    """Tag the examples with deployment.md's command; records belong to the caller."""
    options = ("submit", "/images", "--out", "/out/tags.jsonl")
    project.compose("run", "--rm", "producer", *options, limit_s=SUBMIT_S)
    file = project.place / "ops" / "out" / "tags.jsonl"
    images = tagged(file)
    require(len(images) == EXAMPLES, f"{len(images)} records with tags, not {EXAMPLES}")
    owner, directory = file.stat(), file.parent.stat()
    require(owner.st_uid == directory.st_uid, f"records belong to user {owner.st_uid}")
    file.unlink()
    return f"{len(images)} records; they belong to user {owner.st_uid}, as ops/out does"


def tagged(file: Path) -> set[str]:
    """Return which images have tags in a file of records.

    Raises:
        WrongError: an image has two records, or one without tags.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        require(record.get("tags"), f"without tags: {record}")
    paths = {record["path"] for record in records}
    require(len(paths) == len(records), f"{len(records)} records of {len(paths)} images")
    return paths


def other_profiles(project: Project) -> list[str]:
    """Start what the profiles add, as far as its images are to be had here."""
    names = [name for name in _OF_OTHERS if _to_be_had(project, name)]
    if len(names) == len(_OF_OTHERS):
        project.up(profiles=("http", "monitoring"))
    else:
        project.up(profiles=("http",))
        project.up("exporter", *names)
    seen = healthy(project, "api", "exporter", *names)
    if "prometheus" in names:
        _scrapes(project)
    missing = [f"{name} (its image is not here)" for name in _OF_OTHERS if name not in names]
    return [
        seen,
        f"skipped: {', '.join([*missing, 'worker-gpu (no GPU is looked for)'])}",
    ]


def _scrapes(project: Project) -> None:
    """Wait until Prometheus has asked the worker and the exporter."""
    url = f"http://127.0.0.1:{project.settings['PROMETHEUS_PORT']}/api/v1/query?query="
    end = time.monotonic() + _ANSWER_S
    for metric in ("wanwu_worker_healthy", "wanwu_redis_up"):
        while not json.loads(ask(url + metric)[1])["data"]["result"]:
            require(time.monotonic() < end, f"Prometheus knows no {metric}")
            time.sleep(1)


def _to_be_had(project: Project, service: str) -> bool:
    text = (project.place / "docker-compose.yml").read_text(encoding="utf-8")
    image = text.split(f"\n  {service}:\n")[1].split(" image: ")[1].split()[0]
    for options, limit_s in ((("image", "inspect", image), _ANSWER_S), (("pull", image), _PULL_S)):
        try:
            project.engine.ask(*options, limit_s=limit_s)
        except EngineError:
            continue
        return True
    return False


def answers(project: Project) -> list[str]:
    """Ask everything that answers HTTP, with and without what it wants to be given."""
    flower = f"http://127.0.0.1:{project.settings['FLOWER_PORT']}/api/throughput"
    url = f"http://127.0.0.1:{project.settings['HTTP_PORT']}/predict"
    user = b64encode(project.settings["FLOWER_BASIC_AUTH"].encode()).decode()
    key = {"X-API-Key": project.settings["WANWU_API_KEY"]}
    refused, _ = ask(flower)
    require(refused == HTTPStatus.UNAUTHORIZED, f"Flower without the password: {refused}")
    status, body = ask(flower, {"Authorization": f"Basic {user}"})
    require(status == HTTPStatus.OK, f"Flower: {status} {body[:200]!r}")
    workers = json.loads(body).get("workers", ())
    require(workers, f"Flower knows no worker: {body[:200]!r}")
    picture = min((project.place / "ops" / "examples").glob("*.jpg"))
    refused, _ = ask(url, {}, picture)
    require(refused == HTTPStatus.UNAUTHORIZED, f"/predict without the key: {refused}")
    status, body = ask(url, key, picture)
    tags = json.loads(body).get("results") if status == HTTPStatus.OK else None
    require(tags, f"/predict: {status} {body[:200]!r}")
    backlog = _metrics(project, "exporter", 9808)
    require("wanwu_redis_up 1.0" in backlog, f"the exporter says:\n{backlog}")
    images = _metrics(project, "worker", 8080)
    require("wanwu_images_total{" in images, f"the worker says:\n{images[:500]}")
    return [
        "Flower's API and /predict answer, and 401 without password or key",
        "the exporter's and the worker's /metrics answer",
    ]


def ask(
    url: str, headers: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[int, bytes]:
    """Return status and body of an answer; with a file, that of a form that sends it."""
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - http
    if file:
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        request.data = head.encode() + file.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        request.add_header("Content-Type", f"multipart/form-data; boundary={mark}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310 - http
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()
    except OSError as e:
        msg = f"{url}: {e}"
        raise WrongError(msg) from e


def _metrics(project: Project, service: str, port: int) -> str:
    return project.compose("exec", "-T", service, "python", "-c", _METRICS.format(port))


def users(project: Project) -> str:
    """No service works as root, and none can write to its image."""
    seen = set()
    for one in project.containers():
        name = service_of(one)
        if not one["State"]["Running"]:
            continue
        status = project.engine.ask("exec", one["Id"], "cat", "/proc/1/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        require(facts["Uid"].split()[0] != "0", f"{name} works as root")
        require(int(facts["CapEff"], 16) == 0, f"{name} has capabilities: {facts['CapEff']}")
        require(one["HostConfig"]["ReadonlyRootfs"], f"the root of {name} can be written to")
        seen.add(f"{name} {facts['Uid'].split()[0]}")
    return f"none works as root, all roots are read-only: {', '.join(sorted(seen))}"


def stopped(project: Project) -> str:
    """Stop everything: each service hears of it, and ends by itself before it would be killed."""
    start = time.monotonic()
    project.compose("--profile", "http", "--profile", "monitoring", "stop", limit_s=300)
    took_s = time.monotonic() - start
    for one in project.containers():
        code = one["State"]["ExitCode"]
        require(code != _KILLED, f"{service_of(one)} had to be killed")
        require(health_of(one) == "ended", f"{service_of(one)} still runs")
    return f"all ended by themselves, in {took_s:.0f} s"


def nothing_left(project: Project) -> str:
    """Neither containers nor volumes nor networks of the project are there any more."""
    label = f"label=com.docker.compose.project={project.name}"
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        left = project.engine.ask(*kind, "--quiet", "--filter", label)
        require(not left, f"left: {' '.join(kind)}: {left}")
    return "nothing left"
