"""Four ways to tag the same files, each in processes of its own that stay loaded between turns."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from celery import Celery
from client import SIX, tagged
from loop import Bare
from naive import PROMPT
from worker_pool import HERE, Member, worker_at, workers_at

from producer.backend.connection import open_connection
from worker.artifact.manifest import open_artifact
from worker.contract.cpus import usable_cpus
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import Record
from worker.contract.redis.connections import connect
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.engines.choose import open_engine
from worker.labels.encoder import LabelEncoder
from worker.malloc import disable_malloc_trim

BATCH: Final = 4
LOOP, PIPELINE, OURS = "bare loop", "transformers pipeline", "wanwu"
CORES: Final = usable_cpus().usable
# As many tasks under way keep a child a core busy, and no result waits for long.
_NAIVE_AHEAD: Final = 8 * CORES
Tag = Callable[[Sequence[str]], Sequence[Record]]
Tagger = Callable[[Sequence[str]], object]


class Subject(NamedTuple):
    """What all run: our artifact, transformers' directory or id, and the device for either.

    Of our own workers there may be several.
    """

    artifact: Path
    directory: str
    device: str
    workers: int = 1


class Contender(NamedTuple):
    """A way to tag files. `tag` returns records where there are any; `cpu_s` tells who paid."""

    name: str
    member: Member
    tag: Tag
    cpu_s: Callable[[], dict[str, float]]


@contextmanager
def loop(subject: Subject) -> Iterator[Contender]:
    """Our decoder and our model in a loop with decode threads: all of the work, and no queue."""
    with _solo(LOOP, _load_loop, str(subject.artifact), subject.device) as contender:
        yield contender


@contextmanager
def pipeline(subject: Subject) -> Iterator[Contender]:
    """Hugging Face's zero-shot pipeline at batch 4, as its documentation calls it."""
    with _solo(PIPELINE, _load_pipeline, subject.directory, subject.device) as contender:
        yield contender


@contextmanager
def naive(subject: Subject) -> Iterator[Contender]:
    """Celery with a task an image, a child a core, and that pipeline in each child."""
    argv = ["-m", "celery", "--app", "naive", "--workdir", str(HERE)]
    argv += ["worker", "--pool", "prefork", "--loglevel", "WARNING"]
    variables = {"NAIVE_MODEL": subject.directory, "NAIVE_DEVICE": subject.device}
    with (
        EmbeddedRedis() as server,
        worker_at(server.url, *argv, app=Celery(broker=server.url), **variables) as member,
    ):
        task = Celery("naive", broker=server.url, backend=server.url).signature("naive.tag")

        def tag(paths: Sequence[str]) -> list[Record]:
            waiting: deque[Any] = deque()
            for path in paths:
                waiting.append(task.clone((path, list(SIX.labels))).delay())
                if len(waiting) > _NAIVE_AHEAD:
                    waiting.popleft().get()
            for one in waiting:
                one.get()
            return []

        yield Contender("naive Celery", member, tag, _payers(member, server.url))


@contextmanager
def ours(subject: Subject) -> Iterator[Contender]:
    """Workers of ours, one by default, fed by the producer's own parts through Redis."""
    argv = ["-m", "worker.cli", "start", "--model", str(subject.artifact)]
    argv += ["--device", subject.device]
    with (
        EmbeddedRedis() as server,
        workers_at(server.url, subject.workers, *argv) as members,
        open_connection(Settings(broker_url=SecretUrl(server.url))) as connection,
    ):

        def tag(paths: Sequence[str]) -> list[Record]:
            return tagged(connection, paths)

        fleet = Member(*(pid for member in members for pid in member.pids))
        yield Contender(OURS, fleet, tag, _payers(fleet, server.url))


def _payers(member: Member, url: str) -> Callable[[], dict[str, float]]:
    client = connect(url)

    def cpu_s() -> dict[str, float]:
        info = client.info("cpu")
        return {
            "worker": member.cpu_s(),
            "redis": info["used_cpu_sys"] + info["used_cpu_user"],
            "producer": time.process_time(),
        }

    return cpu_s


@contextmanager
def _solo(
    name: str, load: Callable[[str, str], Tagger], model: str, device: str
) -> Iterator[Contender]:
    """Run what `load` returns in a process of its own: its memory and its threads are its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_live, args=(there, load, model, device), daemon=True)
    process.start()
    there.close()
    try:
        pid = here.recv()
        member = Member(pid)

        def tag(paths: Sequence[str]) -> list[Record]:
            here.send(list(paths))
            here.recv()
            return []

        yield Contender(name, member, tag, lambda: {"worker": member.cpu_s()})
    except EOFError as e:
        msg = f"the process of {name} has ended"
        raise SystemExit(msg) from e
    finally:
        here.close()
        process.join(10)
        process.kill()


def _live(pipe: Connection, load: Callable[[str, str], Tagger], model: str, device: str) -> None:
    run = load(model, device)
    pipe.send(os.getpid())
    while True:
        try:
            paths = pipe.recv()
        except EOFError:
            return
        run(paths)
        pipe.send(len(paths))


def _load_loop(model: str, device: str) -> Tagger:
    disable_malloc_trim()
    settings, artifact = Settings(model=model, device=device), open_artifact(Path(model))
    engine = open_engine(artifact, settings)
    labels = LabelEncoder(artifact, engine.device).encode(SIX)
    return Bare(settings, artifact, engine, labels).threaded


def _load_pipeline(model: str, device: str) -> Tagger:
    from transformers import pipeline as open_pipeline  # noqa: PLC0415 - the others need none

    classify = open_pipeline("zero-shot-image-classification", model=model, device=device)

    def run(paths: Sequence[str]) -> object:
        options = {"candidate_labels": list(SIX.labels), "hypothesis_template": PROMPT}
        return classify(list(paths), batch_size=BATCH, **options)

    return run
