"""What each setting means, in groups: the one table that help and documents are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Entry(NamedTuple):
    """What a setting means, and its default in words where the value alone says little."""

    meaning: str
    default: str = ""


# Each field of `Settings` stands in one group.
GROUPS: Final[Mapping[str, Mapping[str, Entry]]] = {
    "Redis": {
        "broker_url": Entry(
            "Redis of the queue: `redis://:PASSWORD@HOST:6379/0`; `rediss://` for TLS; "
            "`unix:///PATH?db=0`; `sentinel://:PASSWORD@HOST1:26379,HOST2:26379/0?service=NAME`, "
            "or `sentinels://` for TLS."
        ),
        "result_url": Entry("Redis of the results, if apart from the queue.", "the broker's"),
        "sentinel_user": Entry("User of the sentinels of a `sentinel://` URL.", "none"),
        "sentinel_password": Entry(
            "Password of the sentinels; that of the servers stands in the URL.", "none"
        ),
        "prefix": Entry(
            "Beginning of the name of everything in Redis. Installations with different prefixes "
            "share a database without seeing each other; producers, workers and Flower of one "
            "have the same."
        ),
        "tls_ca": Entry(
            "Certificate authority of a `rediss://` or `sentinels://` Redis, a PEM file. The "
            "server's certificate is checked unless the URL says `ssl_cert_reqs=none`.",
            "the system's",
        ),
        "tls_cert": Entry("Client certificate, a PEM file; needs `WANWU_TLS_KEY`.", "none"),
        "tls_key": Entry("Key of the client certificate, a PEM file.", "none"),
        "result_ttl_s": Entry(
            "Seconds to keep a job and its results after its last result, or after it was read."
        ),
        "visibility_timeout_s": Entry(
            "Seconds after a worker's last sign of life until its chunks go to other workers."
        ),
        "redis_retry_timeout_s": Entry(
            "Seconds to keep retrying while Redis is unreachable; a worker retries without limit."
        ),
        "redis_wait_replicas": Entry(
            "Replicas that must have a message before it counts as sent (`WAIT`). With 1, a "
            "failover loses nothing, and nothing is sent while there is no replica."
        ),
    },
    "Model": {
        "model": Entry(
            "Model of a worker: an artifact, or a Hugging Face directory or id.", "the bundled one"
        ),
        "device": Entry("Where the model runs: `cpu`, `cuda`, `cuda:1`."),
        "precision": Entry("Precision of a model that is exported on first use."),
        "engine": Entry(
            "What runs the image tower. `auto`: `torchscript`, or what the model's export found "
            "faster."
        ),
        "threads": Entry(
            "CPU threads of the model.", "one per physical core, within the CPU quota"
        ),
        "max_batch": Entry(
            "Largest micro-batch, in images, or `auto`: what `worker bench --tune` found, else 4.",
            "`auto`",
        ),
    },
    "Worker": {
        "image_roots": Entry(
            "Directories, separated by commas, below which workers read files. Without any, they "
            "tag only images that come as bytes. `worker start --allow` replaces it.",
            "none",
        ),
        "image_urls": Entry(
            "URL prefixes, separated by commas, below which workers fetch images; `*` is any. "
            "`worker start --allow` replaces it.",
            "none",
        ),
        "decode": Entry(
            "Whether JPEGs are scaled while they are decoded: `fast` always, `exact` never, `auto` "
            "where the model's manifest says that embeddings agree."
        ),
        "decoder": Entry(
            "Where images are decoded: in `processes` of their own, which have the deadline and "
            "the limit of memory below, or on `threads` of the worker, which have neither. `auto` "
            "takes threads only where no processes can be started."
        ),
        "decode_threads": Entry(
            "Processes, or threads, that read and decode.", "one per CPU, within the CPU quota"
        ),
        "decode_timeout_s": Entry(
            "Seconds that reading and decoding one image may take; then it fails. Time spent "
            "waiting for a core does not count, up to three times as long. Never more than a "
            "quarter of `WANWU_STALL_TIMEOUT_S`."
        ),
        "decode_memory_bytes": Entry(
            "Bytes of memory that decoding one image may take; then it fails.",
            "256 MiB and 16 bytes for each of `WANWU_MAX_PIXELS`",
        ),
        "fetch_timeout_s": Entry(
            "Seconds that fetching one image from a URL may take, with redirects, pauses and new "
            "attempts; then it fails. Never more than half of `WANWU_STALL_TIMEOUT_S`, nor than 10 "
            "for an image of `/predict`."
        ),
        "image_formats": Entry(
            "Formats that are read, separated by commas; with a `+` before the first, beside those "
            "by default: `+ICNS,SLOW`. Others that can be named: `ICNS`, `QOI`, `DDS`, `SGI`, "
            "`PCX`, `TGA`, and `SLOW` for what a loop in Python decodes: PPM as text, BMP with "
            "run lengths, QOI, some DDS and SGI."
        ),
        "prefetch_chunks": Entry(
            "Most chunks that a worker holds at once, beside urgent ones.",
            "two batches and one per decode process",
        ),
        "max_pixels": Entry(
            "Images with more pixels fail; all decode processes together hold no more than 1.25 "
            "times this."
        ),
        "jpeg_max_side": Entry(
            "JPEGs with a longer side, in pixels, are scaled down while they are decoded; 0: never."
        ),
        "max_file_bytes": Entry("Files with more bytes fail."),
        "embedding_cache_size": Entry(
            "Images per model whose embeddings are kept in Redis by content (SHA-256), so that "
            "duplicates are not inferred again. About 4 bytes per dimension and 300 per image."
        ),
        "stall_timeout_s": Entry(
            "Seconds without a finished image, though some are held, until a worker is unhealthy."
        ),
        "monitor_port": Entry(
            "Port at which a worker answers `/healthz`, `/livez` and `/metrics`.", "0: none"
        ),
        "monitor_host": Entry("Address of that port; `0.0.0.0` for probes from outside."),
        "task_events": Entry("With 0, a worker sends no task events until a Flower asks for them."),
        "log_level": Entry("Least level of a worker's log."),
    },
    "HTTP API": {
        "api_key": Entry("Key that `producer serve` requires as `X-API-Key`.", "none"),
        "api_hosts": Entry(
            "Names, separated by commas, by which clients may address `producer serve` where there "
            "is no key, beside `localhost` and its address: a proxy's, for example.",
            "none",
        ),
    },
}
