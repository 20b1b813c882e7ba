"""What strangers serve, however slow, large or odd: a failed image with a code, and no more."""

from __future__ import annotations

import gzip
import ssl
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack

import fsspec
import pytest
import structlog
import trustme
from conftest import PATIENCE_S
from fetching import fetch, fetching, got
from odd_web import Answer, OddServer, drip, hang, odd_web, ok, then_close

from worker.contract.messages import ImageRef, Part
from worker.contract.settings import Settings
from worker.errors import (
    FetchTimeoutError,
    ImageError,
    OutsideRootsError,
    TooLargeError,
    UnreadableError,
)
from worker.images.fetch.pool import SLOTS_PER_HOST, Fetched, FetchPool

MOST = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ZIPPED = "Content-Encoding: gzip"


def stepping(port: int) -> Answer:
    """Send on to itself, a bit later each time."""

    def answer(send: Callable[[bytes], object], end: threading.Event) -> bool:
        end.wait(0.4)
        place = f"Location: http://127.0.0.1:{port}/on"
        send(ok(b"", place, status="302 Found"))
        return True

    return answer


SLOW: dict[str, Answer] = {
    "/silent": hang(),
    "/half-a-head": hang(HEAD + b"Content-Le"),
    "/half-a-body": hang(ok(b"fine" * 9)[:-9]),
    "/a-byte-a-moment": drip(HEAD + b"Content-Length: 100000\r\n\r\n"),
    "/a-header-a-moment": drip(HEAD, b"X-A: b\r\n"),
    "/a-chunk-a-moment": drip(CHUNKED, b"1\r\nx\r\n"),
    "/continue-for-ever": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/body-of-a-redirect": hang(
        b"HTTP/1.1 302 Found\r\nLocation: /half-a-body\r\nContent-Length: 5\r\n\r\n"
    ),
}


def test_whatever_a_server_takes_its_time_with_ends_at_the_deadline() -> None:
    with odd_web(SLOW) as web, fetching([web.address], fetch_timeout_s=1) as ask:
        asked = {path: ask(f"{web.address}{path}", urgent=True) for path in SLOW}
        for path, future in asked.items():
            error = future.result(PATIENCE_S).error
            assert isinstance(error, FetchTimeoutError), (path, error)
            assert error.failure().code == "fetch_timeout"


def test_a_deadline_holds_over_all_redirects() -> None:
    answers: dict[str, bytes | Answer] = {}
    with odd_web(answers) as web, fetching([web.address], fetch_timeout_s=1) as ask:
        answers["/on"] = stepping(web.port)
        with pytest.raises(FetchTimeoutError):
            got(ask(f"{web.address}/on"))


def test_a_server_that_never_greets_back_ends_at_the_deadline() -> None:
    # What a client says first in TLS is no line: this server waits for the end of one.
    with odd_web({}) as web:
        address = web.address.replace("http", "https")
        with fetching([address], fetch_timeout_s=1) as ask, pytest.raises(FetchTimeoutError):
            got(ask(f"{address}/a"))


def test_a_host_that_hangs_leaves_slots_to_others() -> None:
    with ExitStack() as stack:
        slow = stack.enter_context(odd_web({"/": hang()}))
        quick = stack.enter_context(odd_web({}))
        ask = stack.enter_context(fetching([slow.address, quick.address]))
        hanging = [ask(f"{slow.address}/") for _ in range(SLOTS_PER_HOST + 2)]
        assert got(ask(f"{quick.address}/")) == b"fine"
        assert not any(future.done() for future in hanging)
        # The hung host's own slots are bounded, and none of its images waits for ever.
        assert slow.opened <= SLOTS_PER_HOST
        slow.end.set()
        assert all(future.result(PATIENCE_S).error for future in hanging)


def test_a_host_that_let_many_images_wait_has_less_time_than_others() -> None:
    with (
        odd_web({"/": hang()}) as known,
        odd_web({"/": hang()}) as other,
        fetching([known.address, other.address], fetch_timeout_s=2) as ask,
    ):
        for future in [ask(f"{known.address}/") for _ in range(4)]:
            assert isinstance(future.result(PATIENCE_S).error, FetchTimeoutError)
        before = ask(f"{other.address}/")
        assert isinstance(ask(f"{known.address}/").result().error, FetchTimeoutError)
        assert not before.done()
        assert got(ask(f"{known.address}/good")) == b"fine"


def test_urgent_images_have_slots_of_their_own() -> None:
    with odd_web({"/": hang()}) as web, fetching([web.address]) as ask:
        hanging = [ask(f"{web.address}/") for _ in range(SLOTS_PER_HOST)]
        assert got(ask(f"{web.address}/good", urgent=True)) == b"fine"
        assert not any(future.done() for future in hanging)
        web.end.set()


def test_who_is_asked_to_wait_too_long_does_not_and_others_go_on() -> None:
    busy = ok(b"slow down", "Retry-After: 3600", status="429 Too Many Requests")
    with odd_web({"/busy": busy}) as web, fetching([web.address], fetch_timeout_s=4) as ask:
        waiting = [ask(f"{web.address}/busy") for _ in range(2 * SLOTS_PER_HOST)]
        assert got(ask(f"{web.address}/good")) == b"fine"
        for future in waiting:
            with pytest.raises(UnreadableError, match="429"):
                got(future)
        # A pause of an hour is cut, but does not fit into the deadline even so.
        assert web.seen.count("/busy") == 2 * SLOTS_PER_HOST


@pytest.mark.parametrize("status", ["429 Too Many", "502 Bad Gateway", "503 Busy", "504 Slow"])
def test_what_may_pass_is_tried_again(status: str) -> None:
    answers = {"/a": ok(b"not now", "Retry-After: 0", status=status)}
    with odd_web(answers) as web, fetching([web.address]) as ask:
        asked = ask(f"{web.address}/a")
        while not web.seen:
            assert not asked.done()
        answers["/a"] = ok(b"now")
        assert got(asked) == b"now"
        assert web.seen == ["/a", "/a"]


def test_a_connection_is_used_again_only_when_its_answer_was_read_to_the_end() -> None:
    trap = ok(b"of another")
    unread = HEAD.replace(b"200 OK", b"403 No") + f"Content-Length: {len(trap)}\r\n\r\n".encode()
    late = threading.Event()

    def refused(send: Callable[[bytes], object], _: threading.Event) -> bool:
        send(unread)
        late.wait(PATIENCE_S)
        send(trap)
        return True

    with odd_web({"/no": refused, "/more": ok(b"fine") + trap}) as web:
        with fetching([web.address]) as ask:
            for path in ("/a", "/b"):
                assert got(ask(web.address + path)) == b"fine"
            with pytest.raises(UnreadableError, match="403"):
                got(ask(f"{web.address}/no"))
            late.set()
            for path in ("/c", "/more", "/d"):
                assert got(ask(web.address + path)) == b"fine"
        # Each was asked for once; a and b, which went well, shared a connection.
        assert web.seen == ["/a", "/b", "/no", "/c", "/more", "/d"]
        assert web.connections == [1, 1, 1, 2, 2, 3]


ODD: dict[str, bytes] = {
    "no-number": HEAD + b"Content-Length: abc\r\n\r\nfine",
    "less-than-nothing": HEAD + b"Content-Length: -1\r\n\r\nfine",
    "hexadecimal": HEAD + b"Content-Length: 0x4\r\n\r\nfine",
    "two-lengths": HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nfine",
    "a-huge-length": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nfine",
    "shorter": HEAD + b"Content-Length: 10\r\n\r\nfine",
    "shorter-in-chunks": CHUNKED + b"4\r\nfine\r\n",
    "no-chunks": CHUNKED + b"zz\r\nfine\r\n0\r\n\r\n",
    "a-negative-chunk": CHUNKED + b"-4\r\nfine\r\n0\r\n\r\n",
    "no-answer": b"",
    "no-http": b"SSH-2.0-OpenSSH\r\n\r\n",
    "no-status": b"HTTP/1.1\r\n\r\n",
    "an-odd-status": b"HTTP/1.1 99999 OK\r\n\r\n",
    "another-protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
    "not-modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a-part-unasked": ok(b"fine", status="206 Partial Content"),
    "a-long-reason": ok(b"", status="500 " + "x" * 5000),
    "a-long-header": HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    "many-headers": HEAD + b"X: y\r\n" * 100_000 + b"\r\n",
    "nuls": b"\0" * 1000 + b"\r\n\r\n",
    "brotli": ok(b"fine", "Content-Encoding: br"),
    "twice-zipped": ok(gzip.compress(gzip.compress(b"fine")), "Content-Encoding: gzip, gzip"),
    "not-zipped": ok(b"fine", ZIPPED),
    "cut-zip": ok(gzip.compress(b"fine" * 99)[:-9], ZIPPED),
    "zips-behind-zips": ok(gzip.compress(b"") * 40_000, ZIPPED),
    "a-redirect-into-nothing": ok(b"", "Location: http://[", status="302 Found"),
    "a-redirect-to-a-bad-port": ok(b"", "Location: http://127.0.0.1:x/", status="302 Found"),
    "a-redirect-to-bytes": ok(b"", "Location: http://\x80\xff/", status="302 Found"),
    "a-redirect-nowhere": ok(b"", status="302 Found"),
}


def test_odd_answers_are_failed_images_with_a_code_and_nothing_in_the_log() -> None:
    answers = {f"/{name}": then_close(data) for name, data in ODD.items()}
    with (
        structlog.testing.capture_logs() as logged,
        odd_web(answers) as web,
        fetching([web.address], fetch_timeout_s=20) as ask,
    ):
        asked = {name: ask(f"{web.address}/{name}") for name in ODD}
        for name, future in asked.items():
            error = future.result(PATIENCE_S).error
            assert isinstance(error, UnreadableError | OutsideRootsError), (name, error)
            assert len(str(error)) < 300, name
    assert [event for event in logged if event["log_level"] != "debug"] == []


WHOLE: dict[str, bytes] = {
    "gzip": ok(gzip.compress(b"fine"), ZIPPED),
    "deflate": ok(zlib.compress(b"fine"), "Content-Encoding: deflate"),
    "identity": ok(b"fine", "Content-Encoding: identity"),
    "chunks": CHUNKED + b"2\r\nfi\r\n2\r\nne\r\n0\r\n\r\n",
    "until-the-end": HEAD + b"\r\nfine",
    "odd-dates": ok(b"fine", "Last-Modified: Sat, 99 Nov 9999999 12:00:00 +999999"),
    "no-dates": ok(b"fine", "Last-Modified: x", "Retry-After: x", "Set-Cookie: =;="),
}


def test_whatever_way_it_comes_an_image_is_whole() -> None:
    answers = {f"/{name}": then_close(data) for name, data in WHOLE.items()}
    with odd_web(answers) as web, fetching([web.address]) as ask:
        asked = {name: ask(f"{web.address}/{name}") for name in WHOLE}
        assert {name: got(future) for name, future in asked.items()} == dict.fromkeys(
            WHOLE, b"fine"
        )


@pytest.mark.parametrize("stated", [True, False])
def test_what_inflates_beyond_the_limit_is_too_large(*, stated: bool) -> None:
    bomb = gzip.compress(bytes(50 * MOST), 9)
    data = ok(bomb, ZIPPED) if stated else HEAD + ZIPPED.encode() + b"\r\n\r\n" + bomb
    with odd_web({"/a": then_close(data)}) as web, pytest.raises(TooLargeError):
        fetch(f"{web.address}/a", [web.address], MOST)


def test_a_body_in_crumbs_is_refused() -> None:
    crumbs = CHUNKED + b"2\r\nxx\r\n" * 50_000 + b"0\r\n\r\n"
    few = CHUNKED + b"2\r\nxx\r\n" * 5_000 + b"0\r\n\r\n"
    answers = {"/crumbs": then_close(crumbs), "/few": then_close(few)}
    with odd_web(answers) as web, fetching([web.address]) as ask:
        assert got(ask(f"{web.address}/few")) == b"xx" * 5_000
        with pytest.raises(UnreadableError, match="pieces of a few bytes"):
            got(ask(f"{web.address}/crumbs"))


def test_large_images_wait_until_others_were_used() -> None:
    size = 5_000_000
    with (
        odd_web({"/a": ok(bytes(size))}) as web,
        fetching([web.address], max_file_bytes=size) as ask,
    ):
        # Four of them are all that the budget holds.
        futures: list[Future[Fetched]] = [ask(f"{web.address}/a") for _ in range(6)]
        while sum(future.done() for future in futures) < 4:
            wait(futures, 0.01)
        done, waiting = wait(futures, 0.2)
        assert len(waiting) == 2
        for future in done:
            future.result().release()
        assert [len(got(future)) for future in waiting] == [size, size]


ODD_URLS = (
    *("http://[::1/x", "http://[]/", "http://[v1.x]/", "http://[fe80::1%25lo]:1/", "http:///x"),
    *("http://a.example:99999/", "http://a.example:x/", "http://127.0.0.1:-1/", "http://:80/"),
    *("http://a..b/", f"http://{'a' * 70}.example/", f"http://{'a.' * 200}example/", "http://./"),
    *("http://xn--/", "http://\u3002/", "http://\ud800/", "http://a.invalid/\ud800", "http://-/"),
    *("http://a\r\nX: y/", "http://127.0.0.1:1/\r\nX: y", "http://a\0b/", "http://a%00b/"),
    *("http://a b/", "http://127.0.0.1:1/ HTTP/1.1", "http://a_b.invalid/", "http://*/"),
    *("http://%31%32%37.0.0.1:1/", "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:1/"),
    *("http://127.0.0.1:0/", "https://127.0.0.1:1/", "s3://", "s3:///x", "s3://\ud800/x"),
    *("http://\u202egpj.exe/", "http://a.invalid/" + "x" * 30_000, "gs://b/\0", "sftp://[/x"),
)


@pytest.mark.parametrize("prefix", ["*", "http://127.0.0.1:1/"])
def test_odd_urls_are_failed_images_with_a_code(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with fetching([prefix], fetch_timeout_s=10) as ask:
        asked = {url: ask(url) for url in ODD_URLS}
        for url, future in asked.items():
            error = future.result(PATIENCE_S).error
            assert isinstance(error, ImageError), (url, error)
            assert error.failure().code in {"unreadable", "outside_roots", "fetch_timeout"}, url


@pytest.mark.parametrize("prefix", ["*", "http://"])
@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "127.1", "0.0.0.0"),
        *("10.0.0.1", "192.168.1.1", "169.254.169.254", "[fe80::1]", "[64:ff9b::7f00:1]"),
    ],
)
def test_private_addresses_are_not_connected_to(host: str, prefix: str) -> None:
    with odd_web({}) as web:
        with pytest.raises(ImageError) as caught:
            fetch(f"http://{host}:{web.port}/a", [prefix], MOST)
        assert caught.value.failure().code in {"outside_roots", "unreadable"}
        assert web.opened == 0


def test_a_private_host_is_fetched_from_when_a_prefix_names_it() -> None:
    with odd_web({}) as web:
        for host in ("127.0.0.1", "localhost"):
            address = f"http://{host}:{web.port}"
            assert fetch(f"{address}/a", ["*", address], MOST).data == b"fine"


def test_a_redirect_leads_into_no_private_network_that_is_not_named() -> None:
    with odd_web({}) as inner:
        place = f"Location: http://localhost:{inner.port}/secret"
        with odd_web({"/a": ok(b"", place, status="302 Found")}) as web:
            # Also where a connection to it is open, for what may go there.
            named = f"http://localhost:{inner.port}/public"
            with fetching(["*", web.address, named]) as ask:
                assert got(ask(named)) == b"fine"
                with pytest.raises(OutsideRootsError, match="private network"):
                    got(ask(f"{web.address}/a"))
        assert inner.seen == ["/public"]


def test_a_signed_url_is_sent_as_it_is() -> None:
    path = "/a%7Eb%2fc.jpg?X=%2B%2f%3D&sig=a+b%20c&e='x'"
    with odd_web({}) as web:
        fetch(f"{web.address}{path}", [web.address], MOST)
        fetch(f"{web.address}/图 1.jpg", [web.address], MOST)
        assert web.seen == [path, "/%E5%9B%BE%201.jpg"]


def test_nothing_of_the_workers_own_is_sent_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with odd_web({"/a": ok(b"", "Set-Cookie: a=b", "Location: /b", status="302 Found")}) as web:
        assert fetch(f"{web.address}/a", [web.address], MOST).data == b"fine"
        assert not any(
            b"cookie" in head.lower() or b"referer" in head.lower() for head in web.heads
        )


PART = Part(offset=10, size_bytes=4)


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (ok(b"fine", status="206 Partial Content"), b"fine"),
        (ok(b"more than asked for", status="206 Partial Content"), None),
        (ok(b"x", status="206 Partial Content"), None),
        (ok(b"fine"), None),
        (ok(b"", status="416 Range Not Satisfiable"), None),
    ],
)
def test_a_part_is_that_part_or_nothing(answer: bytes, data: bytes | None) -> None:
    with odd_web({"/a.tar": answer}) as web:
        address = f"{web.address}/a.tar!/1.jpg"
        if data is None:
            with pytest.raises(UnreadableError):
                fetch(address, [web.address], MOST, PART)
        else:
            assert fetch(address, [web.address], MOST, PART).data == data
        assert b"Range: bytes=10-13\r\n" in web.heads[0]


def test_a_certificate_that_nobody_vouches_for_is_an_unreadable_image() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    class Server(OddServer):
        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            connection, place = super().get_request()
            return context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            ), place

    with Server({}) as web:
        threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        address = f"https://127.0.0.1:{web.port}"
        with pytest.raises(UnreadableError, match="cannot be fetched"):
            fetch(f"{address}/a", [address], MOST)
        web.shutdown()


def test_a_store_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with odd_web({}) as quick:
        answers: dict[str, Answer] = {"/bucket/a.jpg": hang()}
        with odd_web(answers) as store:
            # What was made with other credentials is not used again.
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            monkeypatch.setenv("AWS_ENDPOINT_URL", store.address)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of the tests")
            with fetching(["s3://bucket/", quick.address], fetch_timeout_s=2) as ask:
                hanging = [ask("s3://bucket/a.jpg") for _ in range(SLOTS_PER_HOST)]
                assert got(ask(f"{quick.address}/b")) == b"fine"
                for future in hanging:
                    with pytest.raises(FetchTimeoutError):
                        got(future)
                # Their threads still hang: the next finds none, and ends in time all the same.
                with pytest.raises(FetchTimeoutError):
                    got(ask("s3://bucket/a.jpg"))


def test_a_pool_that_stops_fetches_what_was_submitted() -> None:
    with odd_web({}) as web:
        pool = FetchPool(Settings(image_urls=(web.address,)))
        pool.stop()
        pool.start()
        done: list[Fetched] = []
        for number in range(20):
            pool.submit(ImageRef(f"{web.address}/{number}"), done.append)
        pool.stop()
        pool.stop()
        assert [fetched.data for fetched in done] == [b"fine"] * 20
        with pytest.raises(RuntimeError, match="not started"):
            pool.submit(ImageRef(f"{web.address}/a"), done.append)
