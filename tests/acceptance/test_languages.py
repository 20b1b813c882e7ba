"""A whole round of both commands in Chinese, and again in English: what people read, and the data.

In Chinese nothing is left in English but names and data; in English there is no Chinese but data;
and the data is the same.
"""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import pyarrow.parquet as pq
import pytest
import redis
from conftest import LONG, PATIENCE_S, ROOT, SMALL_MODEL, Fleet, environment, until
from forks import Forks
from languages import chinese_in, english_in, untranslated_lines
from server import free_port

import producer.cli
import worker.cli
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.redis.connections import connect

# The round is made before the first test.
pytestmark = [pytest.mark.timeout(1800), LONG]
LOCALES: Final = {"zh": "zh_CN.UTF-8", "en": "en_US.UTF-8"}
AWAY: Final = "redis://127.0.0.1:1/0"
FIXED_S: Final = 1_700_000_000
# Of records, what differs from run to run.
VARYING: Final = ("timing", "batch_size", "worker")
_LOGGED: Final = re.compile(r"^\d{4}-\d\d-\d\dT.*\n", re.MULTILINE)
_FRACTION: Final = re.compile(r"\d+\.\d+(?:e-\d+)?")
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
COMMANDS: Final = {"producer": producer.cli.main, "worker": worker.cli.main}
LABELS: Final = SMALL_MODEL.joinpath("labels.txt").read_text(encoding="utf-8").split("\n")
# What is Chinese in every language: names, and what the examples of the help are about.
CHINESE_DATA: Final = {
    *(name.strip() for line in LABELS for name in re.split("[|<]", line) if name.strip()),
    *(path.stem for path in ROOT.joinpath("ops/examples").iterdir()),
    *("海边的狗", "猫", "狗"),
}
Settings = Mapping[str, str]
NONE: Final[Settings] = {}


class Output(NamedTuple):
    """What a command printed, and how it ended. What is data in it stands on standard output."""

    argv: tuple[str, ...]
    code: int
    text: str
    data: str


class Speaker:
    """Runs commands in one language, in a directory of its own, and keeps what they print."""

    def __init__(self, language: str, directory: Path, broker_url: str, forks: Forks) -> None:
        self.language = language
        self.directory = directory
        self.broker_url = broker_url
        self.outputs: dict[str, Output] = {}
        self._forks = forks

    def environment(self, settings: Settings) -> dict[str, str]:
        given = environment(**{"broker_url": self.broker_url, **settings})
        variables = {"LC_ALL": LOCALES[self.language], "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        return {name: value for name, value in given.items() if name != "LANGUAGE"} | variables

    def run(
        self,
        command: str,
        *argv: str,
        data: bool = False,
        stdin: str = "",
        settings: Settings = NONE,
    ) -> Output:
        """Run a command; with `data`, its standard output is for programs."""
        code, out, err = self._forks.run(
            (command, *argv),
            cwd=self.directory,
            environment=self.environment(settings),
            stdin=stdin,
        )
        logged = "".join(_LOGGED.findall(err))
        text = _LOGGED.sub("", err if data else out + err)
        output = Output((command, *argv), code, text, (out if data else "") + logged)
        return self._keep(output, settings)

    def run_on_a_terminal(self, command: str, *argv: str) -> Output:
        """Run a command that writes to a terminal, where a person sees data as text too."""
        master, slave = pty.openpty()
        argv_here = [sys.executable, "-m", f"{command}.cli", *argv]
        child = subprocess.Popen(
            argv_here, cwd=self.directory, env=self.environment(NONE), stdout=slave, stderr=slave
        )
        os.close(slave)
        shown = b"".join(_chunks(master))
        os.close(master)
        output = Output((command, *argv), child.wait(PATIENCE_S), _ANSI.sub("", shown.decode()), "")
        return self._keep(output, {"terminal": "yes"})

    def interrupt(self, command: str, *argv: str, after: Path) -> Output:
        """Run a command until it has written a file, and then interrupt it."""
        child = subprocess.Popen(
            [sys.executable, "-m", f"{command}.cli", *argv],
            cwd=self.directory,
            env=self.environment(NONE),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        until(lambda: child.poll() is not None or (after.exists() and after.stat().st_size > 0))
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE_S)
        return self._keep(
            Output((command, *argv), child.returncode, (out + err).decode(), ""), NONE
        )

    def _keep(self, output: Output, settings: Settings) -> Output:
        said = " ".join(f"{name}={value}" for name, value in settings.items())
        name = f"{said} {' '.join(output.argv)}".strip().replace(self.broker_url, "REDIS")
        # What an argument is made of that differs from run to run.
        name = re.sub(r"\d{8}-\d{6}-\w{6}|127.0.0.1:\d+|--port \d+", "...", name)
        self.outputs[name] = output
        return output


def _chunks(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:
            return
        if not chunk:
            return
        yield chunk


def prepare(directory: Path) -> None:
    """Make images, good and bad, and files of labels, good and bad; the same for each language."""
    shutil.rmtree(directory, ignore_errors=True)
    photos = directory / "photos and more"
    photos.mkdir(parents=True)
    for example in sorted((ROOT / "ops" / "examples").glob("*.jpg"))[:6]:
        shutil.copy(example, photos)
    (photos / "no worker is online.jpg").write_bytes(b"this is no image")
    (photos / "empty.jpg").touch()
    (directory / "broken.tar").write_bytes(b"this is no archive")
    (directory / "labels.txt").write_text("猫 | 小猫 < 动物\n狗\n", encoding="utf-8")
    (directory / "twice.txt").write_text("猫\n狗 | 猫\n", encoding="utf-8")
    (directory / "form.txt").write_text("猫 < 动物 < 生物\n", encoding="utf-8")
    (directory / "long.txt").write_text("猫" * 999, encoding="utf-8")
    (directory / "blank.txt").write_text("\n# nothing\n", encoding="utf-8")
    (directory / "latin.txt").write_bytes(b"caf\xe9\n")
    (directory / "other.jsonl").write_text("no record\n", encoding="utf-8")
    (directory / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (directory / "other.html").write_text("<p>a page</p>", encoding="utf-8")
    (directory / "nothing").mkdir()
    for path in directory.rglob("*"):
        os.utime(path, (FIXED_S, FIXED_S))


def ask_for_help(speaker: Speaker) -> None:
    for name, group in COMMANDS.items():
        assert isinstance(group, click.Group)
        for argv in (
            (),
            ("--help",),
            ("--version",),
            *((verb, "--help") for verb in group.commands),
        ):
            speaker.run(name, *argv)


WRONG_USES: Final = (
    ("producer", "tag"),
    ("producer", "sbmit"),
    ("producer", "submit"),
    ("producer", "submit", "nothing", "--calbrated"),
    ("producer", "submit", "nothing", "--top-k"),
    ("producer", "submit", "nothing", "--top-k", "many"),
    ("producer", "submit", "nothing", "--top-k", "0"),
    ("producer", "submit", "nothing", "--threshold", "nan"),
    ("producer", "submit", "nothing", "--threshold", "2"),
    ("producer", "submit", "nothing", "--blobs=yes"),
    ("producer", "submit", "nothing", "--labels", "none.txt"),
    ("producer", "submit", "nothing", "--labels", "twice.txt"),
    ("producer", "submit", "nothing", "--labels", "form.txt"),
    ("producer", "submit", "nothing", "--labels", "long.txt"),
    ("producer", "submit", "nothing", "--labels", "blank.txt"),
    ("producer", "submit", "nothing", "--labels", "latin.txt"),
    ("producer", "submit", "nothing", "--labels", "labels.txt", "--label", "猫"),
    ("producer", "submit", "nothing", "--label", " "),
    ("producer", "submit", "nothing", "--template", "no place for it"),
    ("producer", "submit", "nothing", "--background", "labels.txt"),
    ("producer", "submit", "nothing", "--format", "pdf"),
    ("producer", "submit", "nothing", "--format", "parquet"),
    ("producer", "submit", "nothing", "--format", "xmp", "--out", "tags.xmp"),
    ("producer", "submit", "nothing", "--out", "tags.pdf"),
    ("producer", "submit", "nothing", "--out", "away/tags.jsonl"),
    ("producer", "submit", "nothing", "--out", "nothing"),
    ("producer", "submit", "nothing", "--out", "tags.csv", "--embeddings"),
    ("producer", "submit", "nothing", "--out", "other.jsonl"),
    ("producer", "submit", "nothing", "--out", "tags.jsonl", "--resume", "--overwrite"),
    ("producer", "submit", "nothing", "--overwrite"),
    ("producer", "submit", "nothing", "--resume"),
    ("producer", "submit", "nothing", "--retry-failed"),
    ("producer", "submit", "nothing", "--no-wait", "--out", "tags.jsonl"),
    ("producer", "submit", "nothing", "--model", "mine"),
    ("producer", "submit", "nothing", "--flower"),
    ("producer", "submit", "nothing", "--embedded", "--no-wait"),
    ("producer", "submit", "nothing", "--server", "http://127.0.0.1:1", "--blobs"),
    ("producer", "submit", "nothing", "--chunk-size", "9999"),
    ("producer", "submit", "nowhere", "--embedded"),
    ("producer", "submit", "nothing", "--embedded"),
    ("producer", "submit", "photos and none", "--embedded"),
    ("producer", "submit", "no*.jpg", "--embedded"),
    ("producer", "submit", "nowhere://photos/", "--embedded"),
    ("producer", "watch", "nothing"),
    ("producer", "watch", "nowhere", "--out", "tags.jsonl"),
    ("producer", "watch", "nothing", "--out", "tags.parquet"),
    ("producer", "watch", "nothing", "--out", "tags.jsonl", "--settle-seconds", "-1"),
    ("producer", "convert", "none.jsonl", "--out", "tags.csv"),
    ("producer", "convert", "other.jsonl", "--out", "tags.csv"),
    ("producer", "convert", "other.csv", "--out", "tags.jsonl"),
    ("producer", "convert", "other.html", "--out", "tags.jsonl"),
    ("producer", "convert", "other.jsonl", "--out", "other.jsonl"),
    ("producer", "convert", "labels.txt", "--out", "tags.jsonl"),
    ("producer", "retag", "other.jsonl", "--label", "猫", "--out", "new.jsonl"),
    ("producer", "retag", "other.jsonl", "--out", "new.jsonl"),
    ("producer", "search", "other.jsonl"),
    ("producer", "search", "other.jsonl", "猫", "--top", "0"),
    ("producer", "untag", "nowhere"),
    ("producer", "results"),
    ("producer", "status", "--watch", "--json"),
    ("producer", "requeue"),
    ("producer", "cancel", ""),
    ("producer", "completion", "tcsh"),
    ("producer", "serve", "--address", "0.0.0.0"),
    ("producer", "serve", "--port", "99999"),
    ("producer", "exporter", "--port", "none"),
    ("worker", "run"),
    ("worker", "start", "--device", "tpu"),
    ("worker", "start", "--engine", "none"),
    ("worker", "start", "--threads", "0"),
    ("worker", "start", "--allow", "nowhere"),
    ("worker", "start", "--model", "/nowhere"),
    ("worker", "start", "--device", "cuda:99"),
    ("worker", "export"),
    ("worker", "export", "--model", "/nowhere"),
    ("worker", "export", "--model", "nothing", "--out", "photos and more"),
    ("worker", "export", "--model", "nothing", "--precision", "fp16", "--device", "cpu"),
    ("worker", "bench", "--seconds", "nan"),
    ("worker", "bench", "--runs", "0"),
    ("worker", "texts"),
    ("worker", "texts", "--model", "/nowhere"),
    ("worker", "health"),
    ("worker", "health", "--port"),
)

WRONG_SETTINGS: Final = (
    {"broker_url": "http://127.0.0.1/0"},
    {"broker_url": "redis://:pass/word@127.0.0.1/0"},
    {"broker_url": "redis://127.0.0.1/zero"},
    {"broker_url": "redis://127.0.0.1/0?timeout=1"},
    {"broker_url": "redis://nowhere.invalid/0"},
    {"tls_cert": "labels.txt"},
    {"tls_ca": "none.pem"},
    {"max_pixels": "-3"},
    {"max_pixels": "many"},
    {"engine": "steam"},
    {"monitor_port": "99999"},
)


def use_it_wrongly(speaker: Speaker) -> None:
    for argv in WRONG_USES:
        speaker.run(*argv, settings={"broker_url": AWAY})
    for settings in WRONG_SETTINGS:
        speaker.run("producer", "status", settings=settings)
    speaker.run("worker", "texts", stdin="[1]")
    speaker.run("worker", "texts", stdin="{")
    speaker.run("worker", "texts", stdin='{"labels": ["猫", "猫"]}')
    speaker.run("worker", "health", settings={"monitor_port": "1"})
    speaker.run("worker", "health", settings={"engine": "steam"})


def do_without_redis(speaker: Speaker) -> None:
    verbs = (
        ("submit", "photos and more"),
        ("submit", "photos and more", "--no-wait"),
        ("submit", "photos and more", "--dry-run"),
        ("submit", "photos and more", "--server", "http://127.0.0.1:1"),
        ("submit", "photos and more", "--server", "nowhere"),
        *(("status",), ("status", "x"), ("doctor",), ("doctor", "nothing", "s3://photos/x")),
        *(("results", "x"), ("cancel", "x"), ("requeue", "--all")),
    )
    for argv in verbs:
        speaker.run("producer", *argv, settings={"broker_url": AWAY})
    secret = speaker.broker_url.partition(":")[2].partition("@")[0]
    wrong = speaker.broker_url.replace(secret, "//:wrong")
    speaker.run("producer", "status", "--broker", wrong, settings={"broker_url": AWAY})
    speaker.run("producer", "doctor", "--broker", wrong, settings={"broker_url": AWAY})
    speaker.run("worker", "start", "--broker", wrong, settings={"broker_url": AWAY})
    tls = speaker.broker_url.replace("redis://", "rediss://")
    speaker.run("producer", "status", "--broker", tls, settings={"broker_url": AWAY})


def do_without_worker(speaker: Speaker) -> None:
    verbs = (
        *(("status",), ("doctor",), ("doctor", "photos and more", "nowhere", "http://x/y.jpg")),
        *(("submit", "photos and more"), ("submit", "photos and more", "--dry-run")),
        *(("results", "x"), ("cancel", "x"), ("status", "x"), ("requeue", "--all")),
        *(("requeue", "x"), ("submit", "broken.tar", "--no-wait"), ("status", "--json", "x")),
    )
    for argv in verbs:
        speaker.run("producer", *argv)
    sent = speaker.run("producer", "submit", "photos and more", "--no-wait", data=True)
    job = sent.data.strip()
    speaker.run("producer", "status", job)
    speaker.run("producer", "results", job)
    speaker.run("producer", "results", job, "--out", "none.jsonl")
    speaker.run("producer", "cancel", job)
    speaker.run("producer", "cancel", job)
    speaker.run("producer", "status")
    speaker.run("producer", "status", "--json", data=True)


def tag_with_a_worker(speaker: Speaker, client: redis.Redis) -> None:
    submit = ("producer", "submit", "photos and more")
    speaker.run(*submit, "broken.tar", data=True)
    speaker.run_on_a_terminal(*submit, "broken.tar", "--top-k", "2")
    speaker.run(*submit, "--out", "tags.jsonl")
    speaker.run(*submit, "--out", "tags.jsonl")
    speaker.run(*submit, "--out", "tags.jsonl", "--resume")
    speaker.run(*submit, "--out", "tags.jsonl", "--resume", "--retry-failed")
    for file in ("tags.csv", "tags.html"):
        speaker.run(*submit, "--out", file, "--labels", "labels.txt")
    speaker.run(*submit, "--out", "tags.csv", "--overwrite", "--calibrated", "--label", "猫")
    speaker.run(*submit, "--out", "tags.parquet", "--embeddings", "--blobs")
    speaker.run(*submit, "--format", "xmp")
    speaker.run(*submit, "--dry-run")
    speaker.run("producer", "submit", "-", "--out", "list.jsonl", stdin="photos and more/empty.jpg")
    sent = speaker.run(*submit, "--no-wait", data=True)
    speaker.run("producer", "results", sent.data.strip(), "--wait", "--out", "job.jsonl")
    speaker.run("producer", "results", sent.data.strip(), "--wait", "--out", "job.jsonl")
    speaker.run("producer", "cancel", sent.data.strip())
    speaker.run("producer", "status", sent.data.strip())
    client.lpush(KEYS.queue, b"this is no message")
    until(lambda: bool(client.hlen("wanwu:dead")))
    for verb in ("status", "doctor"):
        speaker.run("producer", verb)
        speaker.run_on_a_terminal("producer", verb)
    speaker.run("producer", "doctor", "photos and more", "s3://photos/2026/")
    speaker.run("producer", "requeue", "--all")
    speaker.run("producer", "requeue", "--all", "--delete")
    watched = speaker.directory / "watched.jsonl"
    speaker.interrupt("producer", "watch", "photos and more", "--out", watched.name, after=watched)


def use_the_records(speaker: Speaker) -> None:
    for argv in (
        ("convert", "tags.jsonl", "--out", "converted.csv"),
        ("convert", "tags.jsonl", "--out", "converted.csv"),
        ("convert", "tags.jsonl", "--out", "converted.html"),
        ("convert", "tags.jsonl", "--format", "xmp-stem"),
        ("retag", "tags.parquet", "--label", "鸟", "--label", "船", "--out", "new.parquet"),
        ("retag", "tags.parquet", "--labels", "labels.txt", "--out", "new.csv"),
        ("retag", "tags.jsonl", "--label", "鸟", "--out", "new.jsonl"),
        ("retag", "tags.parquet", "--label", "鸟", "--model", "/nowhere", "--out", "x.csv"),
        ("search", "tags.parquet", "猫"),
        ("search", "tags.parquet", "猫", "--model", "/nowhere"),
        ("search", "tags.jsonl", "猫"),
    ):
        speaker.run("producer", *argv)
    speaker.run("producer", "search", "tags.parquet", "猫", "--json", data=True)
    for file in speaker.directory.joinpath("photos and more").glob("*.xmp"):
        file.with_name(f"{file.name}.kept").write_bytes(file.read_bytes())
    (speaker.directory / "photos and more" / "odd.xmp").write_text("<a>")
    speaker.run("producer", "untag", "photos and more")
    speaker.run(
        *("producer", "submit", "photos and more", "--embedded", "--out", "embedded.jsonl"),
        settings={"broker_url": ""},
    )


def serve_the_api(speaker: Speaker) -> None:
    """Serve, submit to it, refuse a request; what is answered over HTTP is kept as data."""
    port = str(free_port())
    server = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "serve", "--port", port],
        cwd=speaker.directory,
        env=speaker.environment({"api_key": "secret"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert server.stderr is not None
    said = server.stderr.readline().decode()
    try:
        url = f"http://127.0.0.1:{port}"
        speaker.run("producer", "serve", "--port", port)
        submit = ("producer", "submit", "photos and more", "--server", url)
        speaker.run(*submit, "--out", "served.jsonl", settings={"api_key": "secret"})
        speaker.run(*submit, settings={"api_key": "wrong"})
        body = _problem(f"{url}/jobs/nothing")
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=PATIENCE_S)
    speaker.outputs["serve"] = Output(("producer", "serve"), 0, said, body)


def _problem(url: str) -> str:
    request = urllib.request.Request(url, headers={"X-API-Key": "secret"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=PATIENCE_S)
    return refused.value.read().decode()


class Round(NamedTuple):
    """What was printed, by command, and what was written, by file."""

    outputs: dict[str, Output]
    files: dict[str, list[str]]
    worker_log: str


@pytest.fixture(scope="module")
def rounds(
    tmp_path_factory: pytest.TempPathFactory, server: EmbeddedRedis, fleet: Fleet
) -> dict[str, Round]:
    directory = tmp_path_factory.mktemp("round") / "here"
    return {language: _round(language, directory, server, fleet) for language in LOCALES}


def _round(language: str, directory: Path, server: EmbeddedRedis, fleet: Fleet) -> Round:
    prepare(directory)
    here = {"PYTHONPATH": str(ROOT), "LC_ALL": LOCALES[language]}
    forks = Forks(directory.with_name(f"{language}-forks"), environment() | here)
    speaker = Speaker(language, directory, server.url, forks)
    with forks, connect(server.url) as client:
        client.flushall()
        ask_for_help(speaker)
        use_it_wrongly(speaker)
        do_without_redis(speaker)
        do_without_worker(speaker)
        worker = fleet.start(server.url, variables={"LC_ALL": LOCALES[language]})
        tag_with_a_worker(speaker, client)
        use_the_records(speaker)
        serve_the_api(speaker)
    worker.stop()
    files = {
        str(path.relative_to(directory)): _content(path)
        for path in sorted(directory.rglob("*"))
        # The file beside an output holds the id of a job.
        if path.is_file() and path.suffix != ".job"
    }
    return Round(speaker.outputs, files, worker.text)


def _content(file: Path) -> list[str]:
    """Return the lines of a file, without what differs from run to run."""
    if file.suffix == ".parquet":
        return sorted(map(_stable, pq.read_table(file).to_pylist()), key=str)
    text = file.read_bytes().decode(errors="replace")
    if file.suffix == ".csv" and text.startswith("path,"):
        return sorted(map(_stable, csv.DictReader(text.splitlines())), key=str)
    lines = [_stable(json.loads(line)) if line[:1] == "{" else line for line in text.split("\n")]
    return sorted(map(str, lines)) if file.suffix == ".jsonl" else list(map(str, lines))


def _stable(record: dict[str, Any]) -> str:
    kept = {
        name: value
        for name, value in record.items()
        if name not in VARYING and not name.endswith("_ms")
    }
    return json.dumps(kept, ensure_ascii=False, default=str)


def _apart(content: list[str]) -> tuple[str, list[float]]:
    """Tell fractions, such as scores, from all else: their last digits hang on the batch."""
    text = "\n".join(content)
    return _FRACTION.sub("#", text), [float(one) for one in _FRACTION.findall(text)]


def test_both_rounds_are_the_same_commands_and_end_in_the_same_way(
    rounds: dict[str, Round],
) -> None:
    ends = {
        language: {name: output.code for name, output in one.outputs.items()}
        for language, one in rounds.items()
    }
    assert ends["zh"] == ends["en"]
    assert len(ends["zh"]) > 150
    assert {0, 1, 2, 3, 130} <= set(ends["zh"].values())


NAMES: Final = (
    *("photos and more", "photos and none", "no worker is online.jpg", "producer labels general"),
    *CHINESE_DATA,
)
# Words that are the same in Chinese, where they stand alone.
TERMS: Final = ("worker", "auto", "cpu", "chinese-clip")


def test_a_chinese_round_has_no_english_sentence(rounds: dict[str, Round]) -> None:
    found = {
        name: english
        for name, output in rounds["zh"].outputs.items()
        if (english := english_in(output.text, NAMES))
    }
    assert not found


def test_a_chinese_round_has_no_line_without_chinese(rounds: dict[str, Round]) -> None:
    found = {
        name: lines
        for name, output in rounds["zh"].outputs.items()
        if (lines := untranslated_lines(output.text, NAMES, TERMS))
    }
    assert not found


def test_an_english_round_has_no_chinese_but_data(rounds: dict[str, Round]) -> None:
    found = {
        name: chinese
        for name, output in rounds["en"].outputs.items()
        if (chinese := chinese_in(output.text, CHINESE_DATA))
    }
    assert not found


@pytest.mark.parametrize("language", LOCALES)
def test_data_and_logs_are_english_in_every_language(
    rounds: dict[str, Round], language: str
) -> None:
    assert not chinese_in(rounds[language].worker_log, CHINESE_DATA)
    for name, output in rounds[language].outputs.items():
        assert not chinese_in(output.data, CHINESE_DATA), name


def test_the_files_that_are_written_are_the_same(rounds: dict[str, Round]) -> None:
    chinese, english = rounds["zh"].files, rounds["en"].files
    assert set(chinese) == set(english)
    assert {"tags.jsonl", "tags.csv", "tags.html", "tags.parquet", "new.csv"} <= set(chinese)
    for name, content in chinese.items():
        (text, numbers), (wanted, others) = _apart(content), _apart(english[name])
        assert text == wanted, name
        assert numbers == pytest.approx(others, abs=1e-4), name
