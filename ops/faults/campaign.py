"""Tag thousands of images while workers, the network and Redis fail in every way we know.

    python ops/faults/campaign.py [--campaigns 20] [--images 5000] [--lease 4] [--every 2.5]
                                  [--most N] [--seed N] [--json FILE] [--logs DIR] [--before REV]

Each campaign starts a Redis with an append-only file, three workers, one of them behind a network
that can fail, and one `producer submit`. Before that, and until it ends, something goes wrong again
and again: workers are killed, stopped or frozen; the network is cut, or forgets connections without
a word; Redis restarts, loads, stands still, or answers READONLY, OOM, MISCONF or NOPERM. Afterwards
each image must have exactly one record, all of them tags, Redis must hold nothing of the work, and
no worker may have ended by itself. The model is simulated, a fixed time a batch; every second
campaign sends bytes. Exit code 1 if anything was lost, doubled or left, or a worker has ended.

With `--before`, a revision of this repository, producer and workers are of that version when a
campaign begins, and each worker that is started again is of this one: a rolling upgrade.

`longest_still_s` is the longest time in which no record came, whatever went wrong meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import redis
from PIL import Image
from proxy import Proxy
from sender import submit
from server import Server
from supervisor import ROOT, Supervisor

from worker.contract import legacy
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.stores.dead_letters import DeadLetters

# Mean of the pauses between two faults.
EVERY_S: Final = 2.5
WORKERS: Final = 3
# Answers of Redis that refuse to write.
REFUSALS: Final = ("READONLY", "OOM", "MISCONF", "NOPERM")
# So slowly a Redis that loads reads its file, a key.
LOAD_DELAY_US: Final = 300
_PICTURES: Final = 16
_PAUSE_S: Final = 0.1
_LINES: Final = 40
# Longer than that, and something waits for what never comes.
_PATIENCE_S: Final = 600.0


class Campaign:
    """One job under fire."""

    def __init__(
        self,
        directory: Path,
        dice: random.Random,
        lease_s: int,
        every_s: float,
        most: int,
        before: Path | None = None,
    ) -> None:
        self._directory = directory
        self._before = before
        self._dice = dice
        self._lease_s = lease_s
        self._every_s = every_s
        self._most = most
        self._server = Server(directory)
        self._proxy = Proxy(self._server.port)
        self._out = directory / "out.jsonl"
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self._orphans: dict[float, set[tuple[str, int]]] = {}
        self.faults: Counter[str] = Counter()
        self.longest_takeover_s = 0.0
        self.longest_still_s = 0.0
        self._refusal = ""
        self._bytes_out = 0
        self._moved_s = 0.0

    def run(self, images: list[Path], *, blobs: bool) -> dict[str, Any]:
        """Return what was seen; `problems` is empty if all is as promised."""
        began_s = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._server)
            stack.callback(self._proxy.close)
            through = self._server.url.replace(str(self._server.port), str(self._proxy.port))
            urls = [through] + [self._server.url] * (WORKERS - 1)
            log = self._directory / "workers.log"
            self._staff = Supervisor(urls, self._lease_s, log, self._before)
            stack.callback(self._staff.stop)
            code = self._submit(images, blobs=blobs)
            problems = [f"producer ended with {code}"] if code else []
            problems += [f"a worker ended by itself with {one}" for one in self._staff.ended]
            problems += self._check_records(images) + self._check_leftovers()
        return {
            "images": len(images),
            "blobs": blobs,
            "faults": dict(self.faults),
            "s": round(time.monotonic() - began_s, 1),
            "longest_takeover_s": round(self.longest_takeover_s, 1),
            "longest_still_s": round(self.longest_still_s, 1),
            "problems": problems,
        }

    def _submit(self, images: list[Path], *, blobs: bool) -> int:
        options = ["--broker", self._server.url, "--out", str(self._out), *["--blobs"] * blobs]
        self._await_workers()
        # While all are idle.
        self._forget()
        self.faults["forget idle"] += 1
        log, tree = self._directory / "producer.log", self._before or ROOT
        producer = submit(images, *options, log=log, variables={}, tree=tree)
        self._wreck(producer)
        return producer.wait()

    def _await_workers(self) -> None:
        ends_s = time.monotonic() + _PATIENCE_S
        with redis.Redis.from_url(self._server.url) as client:
            while len(client.client_list(_type="pubsub")) < WORKERS:
                if time.monotonic() > ends_s:
                    msg = "the workers did not come up"
                    raise SystemExit(msg)
                time.sleep(_PAUSE_S)

    def _await_job(self, producer: subprocess.Popen[bytes]) -> None:
        with redis.Redis.from_url(self._server.url) as client:
            while producer.poll() is None and not client.exists(KEYS.jobs):
                time.sleep(_PAUSE_S)

    def _wreck(self, producer: subprocess.Popen[bytes]) -> None:
        """Until the producer ends: now a fault, now its end, and always a look at the workers."""
        faults: list[Callable[[], str]] = []
        # A command that cannot reach Redis when it begins says so and ends, as it should.
        self._await_job(producer)
        next_s = time.monotonic() + 1.0
        ends_s = time.monotonic() + _PATIENCE_S
        while producer.poll() is None:
            now_s = time.monotonic()
            if now_s > ends_s:
                producer.kill()
            self._undo_what_is_due(now_s)
            if now_s >= next_s and self.faults.total() < self._most:
                if not faults:
                    faults = self._all_faults()
                self.faults[faults.pop()()] += 1
                next_s = now_s + self._dice.expovariate(1 / self._every_s)
            self._staff.look_after(lacks_rights=self._refusal == "NOPERM")
            self._look_at_orphans()
            self._look_at_records()
            time.sleep(_PAUSE_S)
        for _, undo in self._undo:
            undo()

    def _all_faults(self) -> list[Callable[[], str]]:
        faults: list[Callable[[], str]] = [self._kill, self._stop, self._freeze]
        faults += [self._cut, self._forget, self._restart, self._load, self._stand_still]
        faults += [partial(self._refuse, code) for code in REFUSALS]
        self._dice.shuffle(faults)
        return faults

    def _undo_what_is_due(self, now_s: float) -> None:
        for due_s, undo in [one for one in self._undo if one[0] <= now_s]:
            self._undo.remove((due_s, undo))
            undo()

    def _look_at_records(self) -> None:
        """Note for how long no record has come, once the first has."""
        size = self._out.stat().st_size if self._out.exists() else 0
        now_s = time.monotonic()
        if self._bytes_out:
            self.longest_still_s = max(self.longest_still_s, now_s - self._moved_s)
        if size != self._bytes_out:
            self._bytes_out, self._moved_s = size, now_s

    def _later(self, pause_s: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + pause_s, undo))

    def _kill(self) -> str:
        self._note_orphans()
        self._staff.kill(self._dice.choice(self._staff.children))
        return "kill"

    def _stop(self) -> str:
        self._staff.terminate(self._dice.choice(self._staff.children))
        return "stop"

    def _freeze(self) -> str:
        child = self._dice.choice(self._staff.children)
        child.send_signal(signal.SIGSTOP)
        self._later(self._lease_s + 2, lambda: child.send_signal(signal.SIGCONT))
        return "freeze"

    def _cut(self) -> str:
        self._proxy.cut()
        self._later(self._dice.uniform(1.0, 2.0 * self._lease_s), self._proxy.mend)
        return "cut"

    def _forget(self) -> str:
        self._proxy.forget()
        return "forget"

    def _restart(self) -> str:
        self._end_refusals()
        self._server.stop(self._dice.choice([signal.SIGTERM, signal.SIGKILL]))
        time.sleep(self._dice.uniform(0.2, 3.0))
        self._server.start()
        return "restart"

    def _load(self) -> str:
        self._end_refusals()
        self._server.stop()
        self._server.start(load_delay_us=LOAD_DELAY_US)
        self._server.await_loaded()
        return "LOADING"

    def _stand_still(self) -> str:
        self._end_refusals()
        self._server.freeze()
        time.sleep(self._dice.uniform(1.0, 12.0))
        self._server.thaw()
        return "stand still"

    def _refuse(self, code: str) -> str:
        self._end_refusals()
        self._server.refuse(code)
        self._refusal = code
        self._later(self._dice.uniform(0.1, 8.0), self._end_refusals)
        return code

    def _end_refusals(self) -> None:
        if self._refusal:
            self._server.accept(self._refusal)
            self._refusal = ""

    def _note_orphans(self) -> None:
        """Remember the chunks that are held while a worker is killed, its own among them."""
        with redis.Redis.from_url(self._server.url) as client, suppress(redis.RedisError):
            bodies = [*client.hvals(KEYS.unacked), *client.hvals(legacy.UNACKED)]
            held = [json.loads(body)[0]["headers"]["id"] for body in bodies]
            chunks = {(job, int(seq)) for job, _, seq in (one.rpartition("-") for one in held)}
            self._orphans[time.monotonic()] = chunks

    def _look_at_orphans(self) -> None:
        """See which of them have their results by now."""
        with redis.Redis.from_url(self._server.url) as client, suppress(redis.RedisError):
            for killed_s, chunks in list(self._orphans.items()):
                chunks -= {(job, seq) for job, seq in chunks if client.getbit(KEYS.done(job), seq)}
                if not chunks:
                    del self._orphans[killed_s]
                    took_s = time.monotonic() - killed_s
                    self.longest_takeover_s = max(self.longest_takeover_s, took_s)

    def _check_records(self, images: list[Path]) -> list[str]:
        if not self._out.exists():
            return ["no records"]
        lines = self._out.read_text(encoding="utf-8").splitlines()
        found = Counter[str]()
        failed = Counter[str]()
        for line in lines:
            record = json.loads(line)
            found[record["path"]] += 1
            if record["error"]:
                failed[record["error"]["code"]] += 1
        wanted = {str(path) for path in images}
        problems = {
            "missing": len(wanted - found.keys()),
            "unknown": len(found.keys() - wanted),
            "more than once": sum(count > 1 for count in found.values()),
        } | {f"failed with {code}": count for code, count in failed.items()}
        return [f"{count} {what}" for what, count in problems.items() if count]

    def _check_leftovers(self) -> list[str]:
        """What is acknowledged late goes when its lease ends."""
        ends_s = time.monotonic() + 3 * self._lease_s + 30
        with redis.Redis.from_url(self._server.url) as client:
            while (left := _leftovers(client)) and time.monotonic() < ends_s:
                time.sleep(_PAUSE_S)
        return [f"left in Redis: {', '.join(left)}"] if left else []


def _leftovers(client: redis.Redis) -> list[str]:
    keys: list[Any] = [KEYS.queue, KEYS.urgent_queue, KEYS.turns, KEYS.processing]
    keys += [KEYS.unacked, KEYS.unacked_index]
    keys += [legacy.QUEUE, legacy.PROCESSING, legacy.UNACKED, legacy.UNACKED_INDEX]
    for pattern in (f"{KEYS.prefix}blob:*", f"{KEYS.prefix}attempts:*", KEYS.waiting("*")):
        keys += client.keys(pattern)
    left = [str(key) for key in keys if client.exists(key)]
    return left + ["dead letters"] * bool(DeadLetters(client).count())


@contextmanager
def made_images(count: int) -> Iterator[list[Path]]:
    """Yield so many small JPEGs, each with a name of its own."""
    with tempfile.TemporaryDirectory(prefix="wanwu-faults-") as name:
        directory = Path(name)
        pictures = [directory / f"picture-{number}.jpg" for number in range(_PICTURES)]
        for number, file in enumerate(pictures):
            picture = Image.effect_mandelbrot((64, 64), (-2, -1.2, 1, 1.2), 20 + number)
            picture.convert("RGB").save(file)
        links = [directory / f"{number:06}.jpg" for number in range(count)]
        for number, link in enumerate(links):
            link.hardlink_to(pictures[number % _PICTURES])
        yield links


@contextmanager
def _sources(revision: str | None) -> Iterator[Path | None]:
    """Yield the sources of a revision of this repository; None for none."""
    if revision is None:
        yield None
        return
    command = ("git", "archive", revision, "producer", "worker", "ops/bench")
    packed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)  # noqa: S603
    with tempfile.TemporaryDirectory(prefix="wanwu-before-") as name:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(name, filter="data")
        yield Path(name)


def main() -> None:
    """Run the campaigns as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=20)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--lease", type=int, default=4, help="visibility timeout in seconds")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between faults, mean")
    parser.add_argument("--most", type=int, default=sys.maxsize, help="faults of a campaign")
    parser.add_argument("--seed", type=int, default=None, help="of the first campaign")
    parser.add_argument("--before", metavar="REV", help="begin with this version")
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    parser.add_argument("--logs", type=Path, help="keep the logs of campaigns with problems here")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    found = []
    with made_images(options.images) as images, _sources(options.before) as before:
        for number in range(options.campaigns):
            with tempfile.TemporaryDirectory(prefix="wanwu-campaign-") as name:
                dice = random.Random(seed + number)  # noqa: S311 - no secret
                campaign = Campaign(
                    Path(name), dice, options.lease, options.every, options.most, before
                )
                seen = campaign.run(images, blobs=bool(number % 2)) | {"seed": seed + number}
                print(json.dumps(seen), flush=True)
                found.append(seen)
                if seen["problems"]:
                    _keep_logs(Path(name), options.logs, seed + number)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if any(one["problems"] for one in found) else 0)


def _keep_logs(directory: Path, place: Path | None, seed: int) -> None:
    for file in sorted(directory.glob("*.log")):
        if place:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / f"{seed}-{file.name}")
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
        print(f"--- {file.name}", *lines, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
