"""producer.cli, with its options and its exits: usage, help, and what is said when it cannot run"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import redis
from click.testing import CliRunner, Result
from conftest import PATIENCE_S, ROOT, environment, run

from producer.backend.connection import ONLINE_TIMEOUT_S
from producer.cli import main
from producer.cli.interruption import Interruption
from producer.cli.output import ConsoleOutput
from producer.errors import JobLostError, UnavailableError
from producer.formats import target_of
from producer.jobs.tagging import Writing
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import QUEUE, Chunk, ChunkResult, ImageRef, ImageResult, Tag
from worker.contract.queue.app import make_app
from worker.contract.redis.pools import CONNECT_TIMEOUT_S
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.dead_letters import DeadLetters
from worker.contract.stores.jobs import JobStore

NOWHERE = "redis://:geheim@127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANWU_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")


def call(*argv: str) -> Result:
    return CliRunner().invoke(main, argv)


@contextmanager
def helper(url: str) -> Iterator[None]:
    """Tag everything with 猫, as a worker does, but without being online."""
    over = threading.Event()

    def work() -> None:
        settings = Settings(broker_url=SecretUrl(url))
        with (
            make_app(settings, stores_results=False) as app,
            app.connection_for_read() as connection,
            connection.SimpleQueue(QUEUE) as queue,
            redis.Redis.from_url(url) as client,
        ):
            while not over.is_set():
                try:
                    message = queue.get(timeout=0.1)
                except queue.Empty:
                    continue
                chunk = Chunk.from_wire(message.payload[0][0])
                tag(client, chunk)
                message.ack()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tag(client: redis.Redis, chunk: Chunk) -> None:
    images = tuple(
        ImageResult(path=ref.path, tags=() if ref.error else (Tag("猫", 0.9),), error=ref.error)
        for ref in chunk.images
    )
    result = ChunkResult(
        job=chunk.job, seq=chunk.seq, worker="w", device="cpu", model="m", images=images
    )
    body = json.dumps({"status": "SUCCESS", "result": result.to_wire()})
    client.set(KEYS.result(chunk.task_id), body)
    JobStore(client, 3600).finish_chunk(
        chunk.job, chunk.seq, images=len(images), failed=result.failed
    )


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_the_help_of_each_verb_shows_an_example(verb: str) -> None:
    shown = call(verb, "--help")
    assert shown.exit_code == 0
    assert f"Example: producer {verb}" in " ".join(shown.output.split())


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["none.jpg"], "none.jpg does not exist"),
        (["*.png"], "nothing matches *.png"),
        ([], "Missing argument"),
        (["a.jpg", "--labels", "none.txt"], "none.txt"),
        (["a.jpg", "--labels", "blank.txt"], "no label in it"),
        (["a.jpg", "--labels", "latin.txt"], "latin.txt"),
        (["a.jpg", "--labels", "good.txt", "--label", "猫"], "not both"),
        (["a.jpg", "--label", " "], "blank"),
        (["a.jpg", "--template", "一张照片"], "exactly once"),
        (["a.jpg", "--model", "m"], "--embedded"),
        (["a.jpg", "--embedded", "--no-wait"], "--no-wait"),
        (["a.jpg", "--out", "tags.doc"], ".jsonl, .ndjson"),
        (["a.jpg", "--out", "none/tags.jsonl"], "cannot be written"),
        (["a.jpg", "--top-k", "0"], "--top-k"),
        (["a.jpg", "--top-k", "99999999999999999999"], "--top-k"),
        (["a.jpg", "--threshold", "nan"], "--threshold"),
        (["a.jpg", "--threshold", "5"], "--threshold"),
        (["a.jpg", "--threshold", "-0.1"], "--threshold"),
        (["a.jpg", "--chunk-size", "5000"], "--chunk-size"),
        (["a.jpg", "--broker", "amqp://x"], "redis://"),
        (["empty"], "no image found in empty"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(argv: list[str], sentence: str) -> None:
    Path("good.txt").write_text("猫\n", encoding="utf-8")
    Path("blank.txt").write_text("# 空\n\n", encoding="utf-8")
    Path("latin.txt").write_bytes(b"\xe9t\xe9\n")
    Path("empty").mkdir()
    done = call("submit", *argv)
    assert done.exit_code == 2, done.output
    assert sentence in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "argv",
    [["submit", "a.jpg"], ["status"], ["results", "j"], ["cancel", "j"]],
    ids=lambda w: w[0],
)
def test_a_broker_that_cannot_be_reached_is_one_line(argv: list[str]) -> None:
    done = call(*argv, "--broker", NOWHERE)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot reach Redis at redis://:***@127.0.0.1:1/0: ")


def test_where_no_redis_was_named_it_is_said_what_can_be_done() -> None:
    with socket.socket() as usual:
        if usual.connect_ex(("127.0.0.1", 6379)) == 0:
            pytest.skip("a Redis is at its usual place here")
    for argv in (["submit", "a.jpg"], ["status"]):
        done = call(*argv)
        (line,) = done.stderr.splitlines()
        assert done.exit_code == 1
        assert line.startswith("error: cannot reach Redis at redis://localhost:6379/0: ")
        assert "or set WANWU_BROKER_URL; producer submit --embedded needs none)" in line


def test_letters_that_cannot_be_sent_again_are_not_passed_over_in_silence(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    letters = DeadLetters(client)
    letters.add_unreadable(b"no message", "it is none")
    chunk = Chunk(job="j", seq=0, images=(ImageRef("/a.jpg"),), sent_at_s=0.0)
    letters.add_chunk(chunk, "poison", "workers died")
    done = call("requeue", "--all", "--broker", server.url)
    assert done.exit_code == 3
    assert "sent 1 images" in done.stderr
    assert "1 dead letters cannot be sent again, and stay" in done.stderr
    assert (client.llen(KEYS.queue), letters.count()) == (1, 1)
    alone = call("requeue", "--all", "--broker", server.url)
    assert alone.exit_code == 3
    assert "none of them can be sent again" in alone.stderr
    letters.remove(letters.list())
    none = call("requeue", "--all", "--broker", server.url)
    assert (none.exit_code, none.stderr.strip()) == (0, "there are no dead letters")


@pytest.mark.parametrize("label", ["猫".encode(), b"caf\xe9"])
def test_arguments_are_utf8_whatever_the_locale(
    server: EmbeddedRedis, client: redis.Redis, label: bytes
) -> None:
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    argv = ("-m", "producer.cli", "submit", "a.jpg", "--no-wait", "--label")
    done = subprocess.run(
        [sys.executable, *argv, label],
        env=environment(broker_url=server.url) | ascii_alone | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    is_text = label != b"caf\xe9"
    assert done.returncode == (0 if is_text else 2), done.stderr
    packs = [client.get(key) for key in client.keys("wanwu:labels:*")]
    assert packs == ([msgspec.json.encode({"labels": ["猫"]})] if is_text else [])
    assert is_text or b"bytes that are no UTF-8" in done.stderr


@pytest.mark.parametrize("argv", [["status"], ["submit", "a.jpg"], ["search", "a.jpg", "猫"]])
def test_an_empty_url_is_named_as_such(argv: list[str]) -> None:
    done = call(*argv, "--broker=")
    assert done.exit_code == 2
    assert "the URL of Redis is empty" in done.stderr


def test_an_empty_path_is_named_as_such() -> None:
    done = call("submit", "")
    assert done.exit_code == 2
    assert "the name of a path is empty" in done.stderr


def test_without_redis_or_worker_five_seconds_are_enough_to_say_so() -> None:
    # So long is waited at most, first for the one and then for the other; how fast the rest is
    # depends on the machine.
    assert CONNECT_TIMEOUT_S < 5
    assert ONLINE_TIMEOUT_S < 5


def test_a_result_store_that_cannot_be_reached_is_found_before_any_work(
    server: EmbeddedRedis, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANWU_RESULT_URL", NOWHERE)
    done = call("submit", "a.jpg", "--no-wait", "--broker", server.url)
    assert done.exit_code == 1
    assert "127.0.0.1:1" in done.stderr
    assert client.llen(KEYS.queue) == 0


def test_without_a_worker_nothing_is_sent_and_an_old_file_stays_as_it_was(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    Path("tags.jsonl").write_text("precious")
    argv = ("submit", "a.jpg", "--out", "tags.jsonl", "--overwrite")
    done = call(*argv, "--broker", server.url)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "no worker is online" in line
    assert f"worker start --allow {Path.cwd()}" in line
    assert "--embedded" in line
    assert client.llen(KEYS.queue) == 0
    assert Path("tags.jsonl").read_text() == "precious"


def test_a_job_left_alone_prints_its_id_and_its_results_are_fetched_later(
    server: EmbeddedRedis, client: redis.Redis
) -> None:
    Path("猫.jpg").write_bytes(b"x")
    sent = call("submit", "a.jpg", "猫.jpg", "--no-wait", "--broker", server.url)
    assert sent.exit_code == 0
    (job,) = sent.stdout.split()
    assert "no worker is online" in sent.stderr
    assert job in sent.stderr

    early = call("results", job, "--broker", server.url)
    assert early.exit_code == 1
    assert early.stdout == ""
    assert "not finished: 0 of 2 images" in early.stderr

    with helper(server.url):
        late = call("results", job, "--wait", "--broker", server.url)
    assert late.exit_code == 0, late.stderr
    found = [json.loads(line) for line in late.stdout.splitlines()]
    assert [Path(r["path"]).name for r in found] == ["a.jpg", "猫.jpg"]
    saved = call("results", job, "--out", "r.jsonl", "--broker", server.url)
    assert saved.exit_code == 0
    assert saved.stderr == "wrote 2 records to r.jsonl\n"
    assert Path("r.jsonl").read_text(encoding="utf-8") == late.stdout

    reply = call("status", job, "--broker", server.url)
    assert reply.exit_code == 0
    assert "finished" in reply.stdout
    assert "2 in 1 chunks" in reply.stdout
    assert job in call("status", "--broker", server.url).stdout


def test_failed_images_end_with_3(server: EmbeddedRedis, client: redis.Redis) -> None:
    Path("b.jpg").touch()
    argv = ("submit", "a.jpg", "b.jpg", "--blobs", "--no-wait")
    job = call(*argv, "--broker", server.url).stdout.strip()
    with helper(server.url):
        done = call("results", job, "--wait", "--broker", server.url)
    assert done.exit_code == 3
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
    assert [error and error["code"] for error in errors] == [None, "empty_file"]


@pytest.mark.parametrize("verb", ["status", "results", "cancel"])
def test_a_job_that_is_unknown_is_one_line(
    server: EmbeddedRedis, client: redis.Redis, verb: str
) -> None:
    done = call(verb, "20000101-000000-abcdef", "--broker", server.url)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: there is no job 20000101-000000-abcdef")


def test_cancelling_tells_how_many_were_left(server: EmbeddedRedis, client: redis.Redis) -> None:
    job = call("submit", "a.jpg", "--no-wait", "--broker", server.url).stdout.strip()
    done = call("cancel", job, "--broker", server.url)
    assert done.exit_code == 0
    assert "1 images had not been tagged" in done.stderr
    assert JobStore(client, 3600).is_cancelled(job)
    assert "cancelled" in call("status", job, "--broker", server.url).stdout


def test_what_is_over_cannot_be_cancelled(server: EmbeddedRedis, client: redis.Redis) -> None:
    job = call("submit", "a.jpg", "--no-wait", "--broker", server.url).stdout.strip()
    with helper(server.url):
        call("results", job, "--wait", "--broker", server.url)
    late = call("cancel", job, "--broker", server.url)
    assert late.exit_code == 0
    assert f"{job} is finished: there is nothing" in late.stderr
    assert JobStore(client, 3600).get(job).finished
    assert not JobStore(client, 3600).is_cancelled(job)
    other = call("submit", "a.jpg", "--no-wait", "--broker", server.url).stdout.strip()
    call("cancel", other, "--broker", server.url)
    assert f"{other} was cancelled already" in call("cancel", other, "--broker", server.url).stderr


def test_the_handlers_of_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    call("status", "--broker", NOWHERE)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_submission_is_marked_and_says_how_to_go_on(
    server: EmbeddedRedis,
    client: redis.Redis,
    wait_until: Callable[[Callable[[], bool]], None],
    number: signal.Signals,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "submit", "-", "--no-wait", "--chunk-size", "1"],
        cwd=ROOT,
        env=environment(broker_url=server.url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as producer:
        assert producer.stdin is not None
        producer.stdin.write("/a.jpg\n/b.jpg\n")
        producer.stdin.flush()
        wait_until(lambda: client.llen(KEYS.queue) == 2)
        # Standard input stays open: it waits for more names.
        producer.send_signal(number)
        assert producer.wait(PATIENCE_S) == 130
        assert producer.stderr is not None
        said = producer.stderr.read()
    (job,) = JobStore(client, 3600).list()
    assert job.state == "interrupted"
    assert (job.images, job.chunks) == (2, 2)
    assert "interrupted while sending: 2 images were sent" in said
    assert f"producer results {job.id}" in said
    assert f"producer cancel {job.id}" in said
    assert "Traceback" not in said
    assert "Fatal" not in said


def test_it_runs_without_standard_input(server: EmbeddedRedis, client: redis.Redis) -> None:
    command = f"{sys.executable} -m producer.cli submit a.jpg --no-wait --broker {server.url} <&-"
    done = subprocess.run(
        ["sh", "-c", command], env=environment() | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0
    assert client.llen(KEYS.queue) == 1


def test_importing_the_producer_loads_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "PIL", "transformers", "numpy"}
    program = f"import sys, producer.cli; assert not {heavy!r} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_version_is_told() -> None:
    done = run("producer", "--version")
    assert done.returncode == 0
    assert done.stdout.strip()


def test_all_threads_share_a_heap() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from producer.backend.malloc import limit_malloc_arenas; print(limit_malloc_arenas())",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_a_rehearsal_counts_and_sends_nothing(server: EmbeddedRedis, client: redis.Redis) -> None:
    done = run("producer", "submit", "ops/examples", "--dry-run", broker_url=server.url)
    assert done.returncode == 0, done.stderr
    assert "would send 24 images; nothing was sent" in done.stderr
    assert "no worker is online" in done.stderr
    assert not done.stdout
    assert not [key for key in client.keys("wanwu:*") if b"_kombu" not in key]
    assert client.llen(KEYS.queue) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault_of_ours(
    server: EmbeddedRedis, client: redis.Redis, tmp_path: Path, closed: str
) -> None:
    def shell(argv: str) -> tuple[int, str]:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{sys.executable} -m producer.cli {argv} {closed}"],
            cwd=ROOT,
            env=environment(broker_url=server.url),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    code, said = shell(f"submit {tmp_path / 'a.jpg'}")
    assert code == (1 if closed == "2>&-" else 2)
    assert closed != ">&-" or "standard output is closed: give --out" in said
    # There is no worker.
    assert shell(f"submit {tmp_path / 'a.jpg'} --out {tmp_path / 'tags.jsonl'}")[0] == 1
    assert shell("status")[0] == 0


class UnderWay(NamedTuple):
    job: str
    done: int


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_redis_has_lost_is_not_said_to_be_tagged_still(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, is_lost: bool
) -> None:
    output = ConsoleOutput(target_of(tmp_path / "tags.jsonl", None))
    error: Exception = JobLostError("lost") if is_lost else UnavailableError("away")
    interruption = Interruption(Writing(output), keeps=True)
    interruption.job = UnderWay("j", 0)
    with pytest.raises(type(error)), interruption:
        raise error
    said = capsys.readouterr().err
    assert ("will still be tagged" in said, "cancel" in said) == (not is_lost, not is_lost)
    assert "the same command with --resume" in said
