"""What a chunk costs Redis, and how many one Redis can pass on: no image is read, nothing inferred.

    python ops/bench/redis_load.py [--chunk 8 --chunk 64] [--chunks 300] [--json FILE]
    python ops/bench/redis_load.py --load [--workers N ...] [--processes 2] [--json FILE]

The first counts the commands and bytes of a chunk in each part of its way, with a real producer and
a real worker that answers at once. The second is a load generator: threads that take chunks and
store results through the queue's own code, as fast as they can or each holding a chunk for
`--hold` milliseconds. Where they share the cores with Redis, the rate says less than Redis' CPU of
a chunk, which ends it: Redis runs commands on one core.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, NamedTuple

from answering import NAME, TAGS, TIMING
from tables import markdown
from worker_pool import HERE, worker_at

from producer.backend.connection import Connection, open_connection
from producer.jobs.chunks import Loaded, make_chunk
from producer.jobs.options import JobOptions
from producer.jobs.publisher import Publisher, Stores
from producer.jobs.results import StoredResults
from worker.contract.codec import decode
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import Chunk, ChunkResult, ImageRef, ImageResult
from worker.contract.queue.envelope import EnvelopeError, open_envelope
from worker.contract.queue.fair import FairQueue
from worker.contract.redis.connections import connect
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.job_records import success_body
from worker.contract.stores.jobs import JobStore

CHUNKS: Final = (8, 64)
WORKERS: Final = (1, 4, 16, 64, 256)
# Of 64 characters, as a directory of photographs has them.
PATH: Final = "/srv/photographs/2026/11/somebody's journey/IMG_20261130_{:07d}.jpeg"
_TTL_S: Final = 3600
_TIMEOUT_S: Final = 60.0


class Bill:
    """What Redis has done since it was made."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.config_resetstat()
        self._began, self._began_s = client.info("cpu"), time.perf_counter()

    def per_chunk(self, chunks: int) -> dict[str, Any]:
        """Return commands, those in scripts as well, bytes and CPU of each of so many chunks."""
        found, wall_s = self._client.info("all"), time.perf_counter() - self._began_s
        cpu_s = sum(found[name] - self._began[name] for name in ("used_cpu_user", "used_cpu_sys"))
        calls = {
            name.removeprefix("cmdstat_"): row["calls"]
            for name, row in found.items()
            if name.startswith("cmdstat_") and row["calls"] >= chunks / 2
        }
        return {
            "commands": {name: round(n / chunks, 2) for name, n in sorted(calls.items())},
            "in_bytes": found["total_net_input_bytes"] / chunks,
            "out_bytes": found["total_net_output_bytes"] / chunks,
            "cpu_ms": 1000 * cpu_s / chunks,
            "redis_busy": cpu_s / wall_s,
            "chunks_per_s": chunks / wall_s,
        }


class RoundTrips:
    """Counts the commands that clients send, without those of scripts; a job's bytes slow it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.counts: Counter[str] = Counter()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count, by command, for as long as the context lasts."""
        pool, end = self._client.connection_pool, f"end-{time.monotonic_ns()}"
        connection = pool.get_connection()
        connection.send_command("MONITOR")
        connection.read_response()
        thread = threading.Thread(target=self._count, args=(connection, end.encode()))
        thread.start()
        try:
            yield
        finally:
            self._client.echo(end)
            thread.join(_TIMEOUT_S)
            connection.disconnect()
            pool.release(connection)

    def _count(self, connection: Any, end: bytes) -> None:
        while end not in (line := connection.read_response()):
            # `1764500000.123456 [0 127.0.0.1:50000] "EVALSHA" "..."`, or `[0 lua]`.
            origin, _, command = line.partition(b"] ")
            if not origin.endswith(b"lua"):
                self.counts[command[1:30].partition(b'"')[0].decode().lower()] += 1


def fill(connection: Connection, chunks: int, images: int) -> str:
    """Send a job of so many chunks, as `producer submit --no-wait` does; return its id."""
    job = connection.jobs.create("redis_load").id
    publisher = Publisher(
        Stores(connection.app, connection.jobs, connection.blobs), lambda _: None, retry_timeout_s=9
    )
    publisher.start()
    for seq in range(chunks):
        refs = [Loaded(ImageRef(PATH.format(seq * images + n))) for n in range(images)]
        publisher.put(make_chunk(job, seq, refs, JobOptions(), KEYS))
    publisher.close()
    connection.jobs.set_state(job, "submitted")
    return job


def await_done(jobs: JobStore, job: str) -> None:
    """Wait until a job is finished.

    Raises:
        SystemExit: it is not in time.
    """
    ends_s = time.monotonic() + _TIMEOUT_S
    while not jobs.get(job).finished:
        if time.monotonic() > ends_s:
            msg = f"the job stands still: {jobs.get(job)}"
            raise SystemExit(msg)
        time.sleep(0.1)


def read(jobs: JobStore, job: str) -> int:
    """Read all records and drop them, as `producer results --drop` does; return how many."""
    return sum(map(len, StoredResults(jobs, job).records(drops=True)))


def count(chunks: int, images: int) -> dict[str, Any]:
    """Return what a chunk of so many images costs Redis in each part of its way."""
    with EmbeddedRedis() as server:
        client: Any = connect(server.url)
        settings = Settings(broker_url=SecretUrl(server.url))
        with open_connection(settings) as connection:
            fill(connection, 1, images)
            empty = client.info("memory")["used_memory"]
            bill = Bill(client)
            job = fill(connection, chunks, images)
            found = {"send": bill.per_chunk(chunks)}
            waiting = (client.info("memory")["used_memory"] - empty) / chunks / images
            trips = RoundTrips(client)
            bill = Bill(client)
            with worker_at(server.url, str(HERE / "answering.py"), WANWU_TASK_EVENTS="0"):
                await_done(connection.jobs, job)
                connections = len(client.client_list(_type="normal"))
                found["work"] = bill.per_chunk(chunks)
                stored = (client.info("memory")["used_memory"] - empty) / chunks / images
                bill = Bill(client)
                read(connection.jobs, job)
                found["read"] = bill.per_chunk(chunks)
                with trips.counting():
                    await_done(connection.jobs, fill(connection, chunks, images))
    return {
        "images": images,
        "parts": found,
        "round_trips": {name: n / chunks for name, n in trips.counts.items() if n >= chunks / 2},
        "waiting_bytes_per_image": waiting,
        "stored_bytes_per_image": stored,
        "connections": connections,
    }


class Seen(NamedTuple):
    """What a simulated worker has seen: how long each of its round trips took."""

    take_ms: list[float]
    finish_ms: list[float]


def result_of(chunk: Chunk) -> bytes:
    """Return a result as a worker stores it, with five tags an image."""
    images = tuple(
        ImageResult(path=ref.path, tags=TAGS, timing=TIMING, batch_size=4) for ref in chunk.images
    )
    answer = ChunkResult(
        job=chunk.job, seq=chunk.seq, worker=NAME, device="cpu", model=NAME, images=images
    )
    return success_body(answer)


def simulate(client: Any, hold_s: float) -> Seen:
    """Be a worker until the queue is empty: take, hold, store with the acknowledgement."""
    queue, jobs, seen = FairQueue(KEYS), JobStore(client, _TTL_S), Seen([], [])
    body, images = b"", 0
    while True:
        began_s = time.perf_counter()
        taken = queue.take(client)
        if not isinstance(taken, tuple):
            return seen
        seen.take_ms.append(1000 * (time.perf_counter() - began_s))
        message = open_envelope(taken[0])
        if not body:
            # One result stands for all: what it says is of no concern to Redis.
            chunk = Chunk.from_wire(decode(base64.b64decode(message["body"]))[0][0])
            body, images = result_of(chunk), len(chunk.images)
        job, _, seq = message["headers"]["id"].rpartition("-")
        time.sleep(hold_s)
        tag, began_s = taken[1].decode(), time.perf_counter()
        jobs.finish_chunk(job, int(seq), images=images, failed=0, body=body, ack_tag=tag)
        seen.finish_ms.append(1000 * (time.perf_counter() - began_s))


def simulate_many(url: str, workers: int, hold_s: float, pipe: Any) -> None:
    """Be so many workers, on threads of this process; tell the pipe what each has seen."""
    clients = [connect(url) for _ in range(workers)]
    # msgspec meets the type before several threads do, as in a worker.
    with suppress(EnvelopeError):
        open_envelope(b"{}")
    pipe.send(len(clients))
    pipe.recv()
    with ThreadPoolExecutor(workers) as pool:
        pipe.send([*pool.map(simulate, clients, repeat(hold_s))])


@contextmanager
def simulated(url: str, workers: int, processes: int, hold_s: float) -> Iterator[list[Any]]:
    """Yield a pipe to each of so many processes with their part of the workers, all connected."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(processes):
        here, there = context.Pipe()
        given = (url, workers // processes, hold_s, there)
        context.Process(target=simulate_many, args=given, daemon=True).start()
        there.close()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    yield pipes


def load(workers: int, processes: int, chunks: int, images: int, hold_s: float) -> dict[str, Any]:
    """Let so many simulated workers empty a queue; return the rate and what it cost Redis."""
    with EmbeddedRedis() as server:
        client: Any = connect(server.url)
        with open_connection(Settings(broker_url=SecretUrl(server.url))) as connection:
            job = fill(connection, chunks, images)
            with simulated(server.url, workers, min(processes, workers), hold_s) as pipes:
                bill = Bill(client)
                for pipe in pipes:
                    pipe.send("go")
                seen = [one for pipe in pipes for one in pipe.recv()]
                cost = bill.per_chunk(chunks)
            if not connection.jobs.get(job).finished:
                msg = "chunks were lost"
                raise SystemExit(msg)
    return {
        "workers": workers,
        "images": images,
        "hold_ms": 1000 * hold_s,
        "chunks_per_s": cost["chunks_per_s"],
        "redis_cpu_ms": cost["cpu_ms"],
        "redis_busy": cost["redis_busy"],
        "ceiling_chunks_per_s": 1000 / cost["cpu_ms"],
        "take_ms": percentiles([ms for one in seen for ms in one.take_ms]),
        "finish_ms": percentiles([ms for one in seen for ms in one.finish_ms]),
    }


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return median and 99th percentile."""
    cuts = quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


def count_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return what chunks cost, as a person reads it."""
    heads = ["images in a chunk", "part", "commands", "kB in", "kB out", "Redis CPU, ms"]
    return markdown(
        heads,
        [
            [
                str(row["images"]),
                part,
                f"{sum(one['commands'].values()):.1f}",
                f"{one['in_bytes'] / 1000:.1f}",
                f"{one['out_bytes'] / 1000:.1f}",
                f"{one['cpu_ms']:.3f}",
            ]
            for row in rows
            for part, one in row["parts"].items()
        ],
    )


def load_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of the load generator, as a person reads them."""
    heads = ["workers", "images in a chunk", "chunks/s", "images/s", "Redis busy", "its CPU, ms"]
    heads += ["ceiling, chunks/s", "take, ms (p50, p99)", "store, ms (p50, p99)"]
    return markdown(
        heads,
        [
            [
                str(row["workers"]),
                str(row["images"]),
                f"{row['chunks_per_s']:,.0f}",
                f"{row['chunks_per_s'] * row['images']:,.0f}",
                f"{row['redis_busy']:.0%}",
                f"{row['redis_cpu_ms']:.3f}",
                f"{row['ceiling_chunks_per_s']:,.0f}",
                *("{:.1f}, {:.1f}".format(*row[name]) for name in ("take_ms", "finish_ms")),
            ]
            for row in rows
        ],
    )


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", action="store_true", help="find the ceiling")
    parser.add_argument("--chunk", type=int, action="append", help="of so many images")
    parser.add_argument("--chunks", type=int, default=300, help="of each job")
    parser.add_argument("--workers", type=int, action="append", help="so many of them")
    parser.add_argument("--processes", type=int, default=2, help="that the workers are threads of")
    parser.add_argument("--hold", type=float, default=0.0, help="ms that a worker has a chunk")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    sizes, rows = options.chunk or CHUNKS, []
    for images in sizes:
        if not options.load:
            rows.append(count(options.chunks, images))
            print({name: rows[-1][name] for name in rows[-1] if name != "parts"}, flush=True)
            continue
        for workers in options.workers or WORKERS:
            given = (options.processes, options.chunks, images, options.hold / 1000)
            rows.append(load(workers, *given))
    print(load_table(rows) if options.load else count_table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
