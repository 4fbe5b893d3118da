"""Idempotency-Key: the same request is answered once, whatever happens in between."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import httpx2
import pytest

from service.errors import IdempotencyInProgress
from service.storage import idempotency
from service.storage.idempotency import Kept, Place
from service.storage.sessions import Database
from tests.patience import until
from tests.routes.conftest import API
from tests.routes.test_jobs import SPEC

CSV = b"a,b,y\n1,2,x\n3,4,z\n5,6,x\n7,8,z\n"


def post(http: httpx2.Client, key: str, **fields: object) -> httpx2.Response:
    return http.post("/api/v1/jobs", json={**SPEC, **fields}, headers={"Idempotency-Key": key})


def upload(http: httpx2.Client, key: str, content: bytes = CSV, name: str = "once") -> httpx2.Response:
    files = {"file": ("t.csv", content, "text/csv"), "name": (None, name.encode())}
    return http.post("/api/v1/datasets", files=files, headers={"Idempotency-Key": key})


def slug(answer: httpx2.Response) -> str:
    return str(answer.json()["type"].removeprefix("/problems/"))


def test_the_same_again_is_the_same_job(http: httpx2.Client) -> None:
    key = uuid4().hex
    first = post(http, key, name="once")
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    http.post(f"/api/v1/jobs/{first.json()['id']}/cancel")  # what happened since does not show
    again = post(http, key, name="once")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert (again.content, again.headers["location"]) == (first.content, first.headers["location"])
    spaced = json.dumps({**SPEC, "name": "once"}, indent=3)
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    assert http.post("/api/v1/jobs", content=spaced, headers=headers).content == first.content
    jobs = http.get("/api/v1/jobs", params={"name": "once", "limit": 200}).json()["items"]
    assert len(jobs) == 1


def test_another_body_is_refused(http: httpx2.Client) -> None:
    key = uuid4().hex
    assert post(http, key).status_code == 202
    answer = post(http, key, epochs=7)
    assert (answer.status_code, slug(answer)) == (422, "idempotency-mismatch")


def test_what_was_refused_may_be_corrected(http: httpx2.Client) -> None:
    key = uuid4().hex
    assert post(http, key, epochs=0).status_code == 422
    assert post(http, key, epochs=1).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "naïve"])
def test_keys_that_are_none(http: httpx2.Client, key: str) -> None:
    answer = http.post("/api/v1/jobs", json=SPEC, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert (answer.status_code, slug(answer)) == (400, "bad-idempotency-key")


def test_twenty_at_once_make_one_job(http: httpx2.Client, api: API) -> None:
    key, answers = uuid4().hex, list[httpx2.Response]()

    def send() -> None:
        with httpx2.Client(base_url=api.url, timeout=60) as own:
            answers.append(post(own, key, name="crowded"))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    refused = [answer for answer in answers if answer.status_code != 202]
    assert len(accepted) == 1
    assert all((answer.status_code, slug(answer)) == (409, "idempotency-in-progress") for answer in refused)
    assert all(answer.headers["retry-after"] for answer in refused)
    assert len(http.get("/api/v1/jobs", params={"name": "crowded"}).json()["items"]) == 1


def test_an_upload_is_stored_once(http: httpx2.Client) -> None:
    key = uuid4().hex
    first, again = upload(http, key), upload(http, key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    for other in (upload(http, key, CSV + b"9,9,x\n"), upload(http, key, name="other")):
        assert (other.status_code, slug(other)) == (422, "idempotency-mismatch")
    assert len(http.get("/api/v1/datasets", params={"name": "once"}).json()["items"]) == 1


def test_an_upload_under_way_is_told_of(http: httpx2.Client, api: API) -> None:
    key = uuid4().hex
    body = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nslow\r\n--b\r\n'
    body += b'Content-Disposition: form-data; name="file"; filename="t.csv"\r\n\r\n' + CSV + b"\r\n--b--\r\n"
    head = f"POST /api/v1/datasets HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(head.encode() + body[:60])
        time.sleep(0.3)
        answer = upload(http, key)
        assert (answer.status_code, slug(answer)) == (409, "idempotency-in-progress")
        connection.sendall(body[60:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(head.encode() + body)
        assert b"idempotent-replayed: true" in connection.recv(65536).lower()


def test_an_upload_that_broke_off_may_be_sent_again(http: httpx2.Client, api: API) -> None:
    key = uuid4().hex
    head = f"POST /api/v1/datasets HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Length: 999\r\n"
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n")
        time.sleep(0.3)
    answer = until(lambda: (found := upload(http, key)).status_code != 409 and found)
    assert isinstance(answer, httpx2.Response)
    assert answer.status_code == 201


def test_routes_and_paths_are_apart(http: httpx2.Client) -> None:
    key = uuid4().hex
    assert post(http, key).status_code == 202
    assert upload(http, key).status_code == 201


@pytest.fixture
def database(api: API) -> Iterator[Database]:
    made = Database(f"sqlite:///{api.data / 'temper.db'}")
    yield made
    made.close()


def test_a_place_passes_on_when_its_lease_ends(database: Database) -> None:
    """An API that was killed between the two holds a key no longer than its lease, and cannot come back with it."""
    place = Place("default", "POST /x", uuid4().hex)
    with database.write() as c:
        dead = idempotency.reserve(c, place, 0.05)
    assert isinstance(dead, str)
    time.sleep(0.1)
    with database.write() as c:
        heir = idempotency.reserve(c, place, 60)
    assert isinstance(heir, str)
    with database.write() as c, pytest.raises(IdempotencyInProgress):
        idempotency.reserve(c, place, 60)
    answer = Kept("d", 202, None, "{}")
    with pytest.raises(IdempotencyInProgress), database.write() as c:
        idempotency.keep(c, place, dead, answer)
    with database.write() as c:
        idempotency.release(c, place, dead)  # it is not its own any more
        idempotency.keep(c, place, heir, answer)
        idempotency.release(c, place, heir)  # what was answered stays
        assert idempotency.reserve(c, place, 60) == answer


def test_answers_are_kept_for_a_day(database: Database) -> None:
    place = Place("default", "POST /x", uuid4().hex)
    with database.write() as c:
        owner = idempotency.reserve(c, place, 60)
        assert isinstance(owner, str)
        idempotency.keep(c, place, owner, Kept("d", 202, None, "{}"))
        c.exec_driver_sql("UPDATE idempotency SET created_at = created_at - 86401 WHERE key = ?", (place.key,))
        assert isinstance(idempotency.reserve(c, place, 60), str)
