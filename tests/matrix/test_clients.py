"""Clients that are slow, many, or gone: each costs little, for a bounded time, and the others are served on."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from tests.matrix.table import Bench, check_problem, read
from tests.matrix.transport import GET, HOST, POST, UPLOAD, length
from tests.patience import until
from tests.system.alone import api

PREDICT = b"POST /api/v1/models/%b/predict HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
LIVE = GET + b"\r\n"
HEAD = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,y\n'


def connect(bench: Bench, wait_s: float = 15) -> socket.socket:
    return socket.create_connection((bench.http.base_url.host, bench.http.base_url.port or 80), timeout=wait_s)


def errors(bench: Bench) -> list[str]:
    return [line for line in bench.log.read_text().splitlines() if '"level": "error"' in line or "Traceback" in line]


def ended(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, having sent nothing more."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An API that holds four connections."""
    with api(tmp_path_factory.mktemp("narrow"), TEMPER_MAX_CONNECTIONS="4") as alone, httpx2.Client(base_url=alone.url) as http:
        yield Bench(http, alone.data, alone.log)


def test_whoever_leaves_takes_it_along(bench: Bench) -> None:
    """Uploads, rows and questions broken off at any point: no file, no error, and the service goes on."""
    staging = bench.data / "files" / "staging"
    rows = json.dumps({"inputs": [[0.0] * 64] * 5000}).encode()
    question = PREDICT % bench.refs["plain"].encode() + length(len(rows)) + b"\r\n" + rows
    upload = UPLOAD + length(10_000_000) + b"\r\n" + HEAD + b"1,2\n" * 100_000
    for sent in (upload, upload[:200], question[:-10], question, POST + length(50) + b"\r\n{", GET):
        with connect(bench) as connection:
            connection.sendall(sent)
            time.sleep(0.1)
    until(lambda: not any(staging.iterdir()))
    assert bench.ask("GET", "/livez").status == 200
    assert errors(bench) == []


def test_a_reset_is_no_error(bench: Bench) -> None:
    for sent in (POST + length(50) + b"\r\n{", UPLOAD + length(10_000) + b"\r\n" + HEAD):
        with connect(bench) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing sends RST
            connection.sendall(sent)
            time.sleep(0.1)
    until(lambda: not any((bench.data / "files" / "staging").iterdir()))
    assert errors(bench) == []


def trickle(connection: socket.socket) -> None:
    """A head a byte at a time, each within the time that a silent client has."""
    connection.sendall(GET + b"A: ")
    for _ in range(8):
        time.sleep(1.5)
        connection.sendall(b"b")


def unread(connection: socket.socket) -> None:
    """A body that goes on after its answer."""
    connection.sendall(POST.replace(b"jobs:validate", b"nothing") + length(1000) + b"\r\n")
    assert read(connection).status == 404
    for _ in range(8):
        time.sleep(1.5)
        connection.sendall(b"b")


def idle(connection: socket.socket) -> None:
    """A connection that is kept open for a next request, which never comes."""
    connection.sendall(LIVE)
    assert read(connection).status == 200


def seconds(bench: Bench, sends: Callable[[socket.socket], None]) -> float:
    """How long the service keeps a client that does this."""
    with connect(bench) as connection:
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            sends(connection)
            while not ended(connection):
                pass
        return time.monotonic() - began


def test_slow_clients_are_let_go(bench: Bench, hoard: Future[float]) -> None:
    """Their time is bounded, and the service answers others meanwhile."""
    with ThreadPoolExecutor(3) as pool:
        kept = {sends: pool.submit(seconds, bench, sends) for sends in (trickle, unread, idle)}
        while not all(each.done() for each in kept.values()):
            began = time.monotonic()
            assert bench.ask("GET", "/livez").status == 200
            assert time.monotonic() - began < 15
            time.sleep(0.5)
    assert kept[idle].result() < 20
    assert kept[trickle].result() < 14.5
    assert kept[unread].result() < 14.5


def state(connection: socket.socket) -> str:
    """The state of the server's end of a connection of this machine, as in Linux' include/net/tcp_states.h; empty when it is gone."""
    ends = [f"0100007F:{address[1]:04X}" for address in (connection.getpeername(), connection.getsockname())]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next((line[3] for line in lines if line[1:3] == ends), "")


@pytest.fixture(scope="module")
def hoard(bench: Bench) -> Iterator[Future[float]]:
    """How long a client is kept that asks for much and takes nothing of it."""

    def hold() -> float:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((bench.http.base_url.host, bench.http.base_url.port or 80))
            connection.sendall((b"GET /api/v1/datasets/digits/rows?limit=1000 HTTP/1.1\r\n" + HOST + b"\r\n") * 100)
            began = time.monotonic()
            until(lambda: state(connection) != "01")
            return time.monotonic() - began

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(hold)


def test_connections_are_bounded(narrow: Bench) -> None:
    with ExitStack() as held:
        early = [held.enter_context(connect(narrow)) for _ in range(4)]
        for connection in early:
            connection.sendall(LIVE)
            assert read(connection).status == 200
        with connect(narrow) as late:
            late.sendall(LIVE)
            answer = read(late)
            assert check_problem(answer)["type"] == "/problems/overloaded"
            assert (answer.status, answer.headers["connection"]) == (429, "close")
            assert ended(late)
        # Those that were there are served on.
        early[0].sendall(LIVE)
        assert read(early[0]).status == 200
        # Beyond some more that are told so, connections are cut off without a word.
        crowd = [held.enter_context(connect(narrow)) for _ in range(200)]
        until(lambda: ended(crowd[-1]))
        early[1].sendall(LIVE)
        assert read(early[1]).status == 200
    until(lambda: httpx2.get(narrow.http.base_url.join("/livez")).status_code == 200)
    assert errors(narrow) == []


def test_requests_in_a_row_are_answered_in_order(bench: Bench) -> None:
    """Pipelined: a slow head waits for as long as an earlier request is served; what is no HTTP does not take an answer's place."""
    wait = b"GET /api/v1/jobs/%b?wait=0 HTTP/1.1\r\n" % bench.refs["job"].encode() + HOST + b"\r\n"
    with connect(bench) as connection:
        connection.sendall(LIVE + wait + GET)
        assert read(connection).json == {"live": True}
        assert read(connection).json["id"] == bench.refs["job"]
        connection.sendall(b"\r\n")
        assert read(connection).json == {"live": True}


def test_noise_after_a_request_that_was_read_waits_for_its_answer(narrow: Bench) -> None:
    job = narrow.ask("POST", "/api/v1/jobs", json={"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}}).json["id"]
    held = b"GET /api/v1/jobs/%b?wait=2&since=9 HTTP/1.1\r\n" % job.encode() + HOST + b"\r\n"
    with connect(narrow) as connection:
        connection.sendall(held)
        time.sleep(0.5)
        connection.sendall(b"\0\1\2 noise \r\n\r\n" * 100)
        answer = read(connection)
        assert answer.json.get("id") == job, answer
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert ended(connection)


def test_no_job_comes_of_a_request_that_was_refused(narrow: Bench) -> None:
    """Content-Length is too small, yet what it covers is a whole spec."""
    spec = json.dumps({"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}, "name": "ghost"}).encode()
    answer = narrow.raw(POST.replace(b":validate", b"") + length(len(spec)) + b"\r\n" + spec + b"rest of it")
    assert check_problem(answer)["type"] == "/problems/bad-request"
    time.sleep(0.5)
    assert narrow.ask("GET", "/api/v1/jobs?name=ghost").json["items"] == []


@pytest.mark.parametrize("path", ["/livez", "/api/v1/jobs", "/api/v1/jobs/{job}", "/api/v1/jobs/{job}/events", "/api/v1/jobs/{job}/logs",
                                  "/api/v1/models/{plain}/files/model.safetensors", "/api/v1/nothing"])  # fmt: skip
def test_a_head_is_a_get_without_its_body(bench: Bench, path: str) -> None:
    get, head = bench.ask("GET", path), bench.ask("HEAD", path)
    told = {"content-length", "content-type", "etag", "accept-ranges"}
    assert (head.status, head.body) == (get.status, b"")
    assert {name: head.headers.get(name) for name in told} == {name: get.headers.get(name) for name in told}


def test_a_head_of_a_stream_ends_at_once(narrow: Bench) -> None:
    job = narrow.ask("POST", "/api/v1/jobs", json={"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}}).json["id"]
    began = time.monotonic()
    assert narrow.ask("HEAD", f"/api/v1/jobs/{job}/events").status == 200
    assert narrow.ask("HEAD", "/livez").status == 200  # on the same connection
    assert time.monotonic() - began < 15


def test_what_a_client_knows_is_not_sent_again(bench: Bench) -> None:
    path = "/api/v1/models/{plain}/files/model.safetensors"
    whole = bench.ask("GET", path)
    etag = whole.headers["etag"]
    for known in (etag, f'"0", {etag}', f"W/{etag}", "*"):
        answer = bench.ask("GET", path, headers={"If-None-Match": known})
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    changed = bench.ask("GET", path, headers={"If-None-Match": '"0"'})
    piece = bench.ask("GET", path, headers={"Range": "bytes=0-3", "If-Range": etag})
    again = bench.ask("GET", path, headers={"Range": "bytes=0-3", "If-Range": '"0"'})
    assert [answer.status for answer in (changed, piece, again)] == [200, 206, 200]
    assert piece.headers["content-range"] == f"bytes 0-3/{len(whole.body)}"
    assert piece.body == whole.body[:4]


def test_a_client_that_takes_nothing_is_cut_off(hoard: Future[float]) -> None:
    assert 25 < hoard.result() < 60
