"""Images at URLs and in shards: same tags as from files, and nothing beyond what is allowed."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import ROOT, Fleet, run
from fetching import fetch
from images import fill
from web import object_store, web

from producer.errors import StoreError
from producer.sources import stores as urls
from producer.sources.scan import check, path_of, scan
from worker.contract.extensions import is_image
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import ImageRef, Part
from worker.errors import (
    EmptyFileError,
    ImageError,
    NotFoundError,
    OutsideRootsError,
    TooLargeError,
    UnreadableError,
)
from worker.images.fetch.allowed import is_allowed, is_named

EXAMPLES = ROOT / "ops" / "examples"
MOST = 1_000_000


@pytest.mark.parametrize(
    ("url", "prefix", "allowed"),
    [
        ("https://a.example/p/x.jpg", "https://a.example/p/", True),
        ("https://a.example/p/x.jpg", "https://a.example/p", True),
        ("https://a.example/x.jpg", "https://a.example", True),
        ("HTTPS://A.example/p/x.jpg", "https://a.example/p", True),
        ("https://anything.example/x.jpg", "https://", True),
        ("s3://bucket/2026/x.jpg", "s3://bucket/2026/", True),
        ("s3://bucket/2026/x.jpg", "*", True),
        ("https://a.example/private/x.jpg", "https://a.example/p", False),
        ("https://a.example.evil.example/p/x.jpg", "https://a.example", False),
        ("https://a.example:8443/x.jpg", "https://a.example", False),
        ("http://a.example/x.jpg", "https://a.example", False),
        ("https://a.example/p/../x.jpg", "https://a.example/p/", False),
        ("https://a.example/p/%2e%2e/x.jpg", "https://a.example/p/", False),
        ("https://a.example/p/..%5cx.jpg", "https://a.example/p/", False),
        ("https://a.example@evil.example/p/x.jpg", "*", False),
        ("https://u:p@a.example/x.jpg", "https://a.example", False),
        ("file:///etc/passwd", "*", False),
        ("zip://x::s3://bucket/a.zip", "*", False),
        ("s3://bucket/a::b", "*", False),
        ("memory://x", "*", False),
        ("/etc/passwd", "*", False),
        ("https://a.example/x.jpg", "", False),
        ("https://[2001:db8::1]/x.jpg", "https://[2001:db8::1]/", True),
        ("https://[2001:db8::1/x.jpg", "*", False),
        ("https://a.example/x.jpg", "https://[a", False),
        ("https://a.example/x\n.jpg", "*", False),
        ("sftp://a.example/x.jpg", "*", False),
        ("sftp://a.example/x.jpg", "sftp://", False),
        ("sftp://a.example/x.jpg", "sftp://a.example/", True),
    ],
)
def test_only_what_lies_below_a_prefix_is_fetched(url: str, prefix: str, *, allowed: bool) -> None:
    assert is_allowed(url, [prefix] if prefix else []) is allowed


@pytest.mark.parametrize(
    ("prefixes", "named"),
    [
        (["*"], False),
        (["http://"], False),
        (["http://intranet.example:8080"], False),
        (["http://intranet.example/public"], False),
        (["*", "http://INTRANET.example"], True),
        (["http://intranet.example/p/"], True),
    ],
)
def test_a_server_is_named_by_a_prefix_with_its_host(prefixes: list[str], *, named: bool) -> None:
    assert is_named("http://intranet.example/p/x.jpg", prefixes) is named


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, list[str]]]:
    directory = tmp_path_factory.mktemp("site")
    (directory / "a.jpg").write_bytes(b"some bytes")
    (directory / "empty.jpg").touch()
    os.utime(directory / "a.jpg", (1, 1_700_000_000))
    with web(directory) as (address, seen):
        yield directory, address, seen


def test_what_a_web_server_gives_comes_with_its_stamp(site: tuple[Path, str, list[str]]) -> None:
    _, address, _ = site
    found = fetch(f"{address}/a.jpg", [address], MOST)
    assert found.data == b"some bytes"
    assert found.stamp is not None
    assert (found.stamp.size_bytes, found.stamp.modified_s) == (10, 1_700_000_000)
    assert fetch(f"{address}/to//a.jpg", [address], MOST).data == b"some bytes"


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("/none.jpg", NotFoundError, "404"),
        ("/code/410", NotFoundError, "410"),
        ("/code/403", UnreadableError, "403"),
        ("/code/500", UnreadableError, "500"),
        ("/empty.jpg", EmptyFileError, "empty"),
        ("/endless", TooLargeError, "are more than the limit of 1,000"),
        ("/to//to//to//to//to//to//a.jpg", UnreadableError, "from one address to the next"),
        ("/to/http://localhost:1/a.jpg", OutsideRootsError, "may fetch from"),
        ("/to/file:///etc/passwd", OutsideRootsError, "may fetch from"),
    ],
)
def test_what_a_web_server_does_not_give_has_its_reason(
    site: tuple[Path, str, list[str]], path: str, error: type[ImageError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        fetch(f"{site[1]}{path}", [site[1]], 1000)


def test_nobody_is_asked_for_what_is_not_allowed(site: tuple[Path, str, list[str]]) -> None:
    before = len(site[2])
    with pytest.raises(OutsideRootsError):
        fetch(f"{site[1]}/a.jpg", [f"{site[1]}/public"], MOST)
    assert len(site[2]) == before


def test_a_server_that_is_away_is_one_sentence() -> None:
    with pytest.raises(UnreadableError, match="cannot be fetched"):
        fetch("http://127.0.0.1:1/a.jpg", ["http://127.0.0.1:1"], MOST)


def test_a_store_without_its_library_says_what_to_install() -> None:
    # Those that have an extra are all installed here: test_installs tries them without.
    with pytest.raises(UnreadableError, match="adlfs"):
        fetch("abfs://bucket/a.jpg", ["*"], MOST)
    with pytest.raises(StoreError, match="adlfs"):
        urls.check("abfs://bucket/")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "memory://a.jpg", "hf://datasets/a/b.jpg"])
def test_producer_and_worker_agree_on_what_is_not_fetched(url: str) -> None:
    with pytest.raises(StoreError, match="workers do not fetch images from"):
        check([url])
    with pytest.raises(OutsideRootsError, match="may fetch from"):
        fetch(url, ["*"], MOST)


def pack(directory: Path, shard: Path) -> Path:
    """Return a shard of all files of a directory, and some that are no images."""
    with tarfile.open(shard, "w") as archive:
        for path in sorted(directory.iterdir()):
            archive.add(path, path.name)
        archive.add(ROOT / "LICENSE", "000.txt")
        archive.add(directory, "directory.jpg", recursive=False)
    return shard


def test_a_shard_yields_its_images_and_where_they_lie(tmp_path: Path) -> None:
    photos = sorted(fill(tmp_path / "图", 3))
    shard = pack(photos[0].parent, tmp_path / "000.tar")
    found = list(scan([str(tmp_path / "*.tar")], lambda *_: None))
    assert len(found) == 3
    for image, photo in zip(found, photos, strict=True):
        assert isinstance(image, ImageRef)
        assert isinstance(image.part, Part)
        assert image.path == f"{shard}!/{photo.name}"
        with shard.open("rb") as stream:
            stream.seek(image.part.offset)
            assert stream.read(image.part.size_bytes) == photo.read_bytes()


@pytest.mark.parametrize("body", [b"", b"no archive" * 100])
def test_what_is_no_archive_is_passed_over_with_a_word(tmp_path: Path, body: bytes) -> None:
    shard, reply = tmp_path / "x.tar", list[str]()
    shard.write_bytes(body)
    assert list(scan([str(shard)], lambda _, error: reply.append(str(error)))) == []
    assert "not a tar archive" in reply[0]


def tags_of(out: Path) -> dict[str, Any]:
    """Return tags by the image's name alone."""
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {line["status"] for line in lines} == {"ok"}, lines
    return {line["path"].replace("!/", "/").rpartition("/")[2]: line["tags"] for line in lines}


def rounded(tags: list[dict[str, Any]]) -> list[Any]:
    return [(tag["label"], pytest.approx(tag["score"], abs=1e-4)) for tag in tags]


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """An S3 server with the examples in a bucket; this process finds it too."""
    with object_store() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        bucket = fsspec.filesystem("s3", skip_instance_cache=True)
        bucket.mkdir("photos")
        for path in EXAMPLES.iterdir():
            bucket.put_file(str(path), f"photos/2026/{path.name}")
        yield variables


def test_files_urls_and_shards_get_the_same_tags(
    server: EmbeddedRedis, fleet: Fleet, store: dict[str, str], tmp_path: Path
) -> None:
    """Must hold for all at once: one worker, which has the credentials, fetches what it may."""
    shard = pack(EXAMPLES, tmp_path / "shard.tar")
    bucket = fsspec.filesystem("s3", skip_instance_cache=True)
    bucket.put_file(str(shard), "photos/shards/shard.tar")
    with web(EXAMPLES) as (address, _):
        names = sorted(path.name for path in EXAMPLES.iterdir() if is_image(path.name))
        listed = tmp_path / "urls.txt"
        listed.write_text("".join(f"{address}/{name}\n" for name in names), encoding="utf-8")
        worker = fleet.start(
            server.url,
            *("--allow", "s3://photos/", "--images", address),
            *("--allow", str(EXAMPLES), "--images", str(tmp_path)),
        )
        found = {}
        for name, argv in {
            "files": [str(EXAMPLES)],
            "shard": [str(shard)],
            "blobs of a shard": [str(shard), "--blobs"],
            "bucket": ["s3://photos/2026/"],
            "pattern": ["s3://photos/2026/*.*"],
            "shard in a bucket": ["s3://photos/shards/shard.tar"],
        }.items():
            out = tmp_path / f"{name}.jsonl"
            done = run("producer", "submit", *argv, "--out", str(out), broker_url=server.url)
            assert done.returncode == 0, (name, done.stderr)
            found[name] = tags_of(out)
        web_out = tmp_path / "web.jsonl"
        argv = [f"{address}/{name}" for name in names]
        done = run("producer", "submit", *argv, "--out", str(web_out), broker_url=server.url)
        assert done.returncode == 0, done.stderr
        found["web"] = tags_of(web_out)
    worker.stop()
    assert set(found["files"]) == set(names)
    for place, tags in found.items():
        # In whatever batches they were: those round differently.
        assert {name: rounded(each) for name, each in tags.items()} == {
            name: rounded(each) for name, each in found["files"].items()
        }, place


def test_records_go_to_a_bucket_and_are_gone_on_with_there(
    server: EmbeddedRedis, fleet: Fleet, store: dict[str, str], tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 5)
    fleet.start(server.url)
    bucket = fsspec.filesystem("s3", skip_instance_cache=True)
    for ending in ("jsonl", "parquet"):
        argv = ("producer", "submit", "--out", f"s3://photos/out/tags.{ending}")
        done = run(*argv, str(tmp_path / "photos"), broker_url=server.url)
        assert done.returncode == 0, done.stderr
        assert bucket.exists(f"photos/out/tags.{ending}")
    lines = bucket.cat("photos/out/tags.jsonl").splitlines()
    assert len(lines) == 5
    fill(tmp_path / "more", 2)
    again = ("producer", "submit", "--resume", "--out", "s3://photos/out/tags.jsonl")
    done = run(*again, str(tmp_path / "photos"), str(tmp_path / "more"), broker_url=server.url)
    assert "resuming: 5 images are done" in done.stderr
    bucket.invalidate_cache()
    assert bucket.cat("photos/out/tags.jsonl").splitlines()[:5] == lines
    assert len(bucket.cat("photos/out/tags.jsonl").splitlines()) == 7


def test_a_bucket_that_is_not_there_is_told_before_any_work(store: dict[str, str]) -> None:
    done = run("producer", "submit", "s3://nowhere/", "--embedded")
    assert done.returncode == 2
    assert "no image found in s3://nowhere/" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_url_is_no_blob(tmp_path: Path) -> None:
    done = run("producer", "submit", "https://a.example/x.jpg", "--blobs", "--embedded")
    assert done.returncode == 2
    assert "leave out --blobs" in done.stderr


def test_lists_on_standard_input_may_hold_urls() -> None:
    listed = BytesIO("https://a.example/图.jpg\na.jpg\n".encode())
    images = scan(["-"], lambda *_: None, lambda: listed)
    assert [path_of(image) for image in images] == [
        "https://a.example/图.jpg",
        str(Path("a.jpg").absolute()),
    ]
