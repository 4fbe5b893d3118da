"""Datasets over HTTP: uploads in a stream, listing, rows, deletion, and every kind of bad upload."""

import hashlib
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.patience import until

CSV = b"a,b,y\n1,x,0\n2,y,1\n,x,0\n"
HERE = "/api/v1/datasets"


def upload(http: httpx2.Client, content: bytes, name: str = "mini", filename: str = "data", **parts: str) -> httpx2.Response:
    return http.post(HERE, files={"file": (filename, content, "application/octet-stream")}, data={"name": name, **parts})


def test_an_upload_is_described(http: httpx2.Client) -> None:
    answer = upload(http, CSV, schema='{"targets": ["y"], "fields": {"y": {"kind": "categorical"}}}', labels='{"team": "a"}')
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert answer.headers["location"] == f"{HERE}/{dataset['id']}"
    assert (dataset["format"], dataset["rows"], dataset["size"]) == ("csv", 3, len(CSV))
    assert dataset["sha256"] == hashlib.sha256(CSV).hexdigest()
    assert [field["kind"] for field in dataset["fields"]] == ["numeric", "categorical", "categorical"]
    assert dataset["fields"][0]["missing"] == 1
    assert dataset["fields"][1]["classes"] == [{"value": "x", "count": 2}, {"value": "y", "count": 1}]
    assert dataset["labels"] == {"team": "a"}
    assert http.get(f"{HERE}/mini").json() == dataset == http.get(answer.headers["location"]).json()
    rows = http.get(f"{HERE}/mini/rows?offset=1&limit=5").json()
    assert rows == {
        "items": [{"row": 1, "values": {"a": 2.0, "b": "y", "y": "1"}}, {"row": 2, "values": {"a": None, "b": "x", "y": "0"}}],
        "offset": 1, "limit": 5, "total": 3,
    }  # fmt: skip
    assert http.get(f"{HERE}/mini/rows?offset=99").json()["items"] == []


def test_a_name_is_the_newest(http: httpx2.Client) -> None:
    first, second = upload(http, CSV, "twice").json(), upload(http, CSV, "twice").json()
    assert http.get(f"{HERE}/twice").json()["id"] == second["id"]
    listed = http.get(HERE, params={"name": "twice"}).json()["items"]
    assert [item["id"] for item in listed] == [second["id"], first["id"]]


def test_builtin_datasets(http: httpx2.Client) -> None:
    digits = http.get(f"{HERE}/digits").json()
    assert (digits["rows"], digits["targets"], digits["builtin"]) == (1797, ["label"], True)
    image, label = digits["fields"]
    assert (image["kind"], image["shape"], image["min"], image["max"]) == ("image", [8, 8], 0, 16)
    assert [each["value"] for each in label["classes"]] == [str(digit) for digit in range(10)]
    declared = {"rotation_degrees": 15, "translation_pixels": 1, "horizontal_flip": False, "vertical_flip": False}
    assert digits["invariances"] == declared
    first = http.get(f"{HERE}/digits/rows?limit=1").json()["items"][0]["values"]
    assert first["label"] == "0"
    assert first["image"][0] == [0, 0, 5, 13, 9, 1, 0, 0]
    diabetes = http.get(f"{HERE}/diabetes").json()
    assert (diabetes["rows"], len(diabetes["fields"]), diabetes["targets"]) == (442, 11, ["target"])
    assert http.get(f"{HERE}/diabetes/rows?limit=1").json()["items"][0]["values"]["age"] == 59
    refused = http.delete(f"{HERE}/digits")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/dataset-builtin")


def test_deletion_waits_for_jobs(http: httpx2.Client, api: Any) -> None:
    dataset = upload(http, b"a,y\n" + b"1,2\n3,4\n" * 20, "used").json()
    job = http.post("/api/v1/jobs", json={"dataset": "used", "architecture": {"type": "mlp", "hidden": []}})
    assert job.status_code == 202, job.text
    refused = http.delete(f"{HERE}/used")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/dataset-in-use")
    http.post(f"/api/v1/jobs/{job.json()['id']}/cancel")
    assert http.delete(f"{HERE}/used").status_code == 204
    assert http.get(f"{HERE}/{dataset['id']}").status_code == 404
    assert not (api.data / "files" / "datasets" / dataset["id"]).exists()


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "filename", "parts", "status", "slug"),
    [
        (CSV, "data.parquet", {}, 415, "unsupported-media-type"),
        (b"\x1f\x8b\x08\x00" + bytes(99), "data", {}, 415, "unsupported-media-type"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "data.png", {}, 415, "unsupported-media-type"),
        ("a,b\né,1\n".encode("latin-1"), "data.csv", {}, 415, "unsupported-media-type"),
        (b"", "data.csv", {}, 422, "invalid-data"),
        (b"a,b\n1,2\n3,4,5\n", "data.csv", {}, 422, "ragged"),
        (b"a,b\n1,2\n3,inf\n", "data.csv", {}, 422, "non-finite"),
        (archive(x=np.array([{}, {}], dtype=object)), "data.npz", {}, 422, "forbidden-pickle"),
        (archive(y=np.zeros(3)), "data.npz", {}, 422, "invalid-data"),
        (b"PK\x03\x04 truncated", "data.npz", {}, 422, "corrupt-file"),
        (CSV, "data.csv", {"bogus": "1"}, 422, "bad-multipart"),
        (CSV, "data.csv", {"name": "../up"}, 422, "invalid-name"),
        (CSV, "data.csv", {"name": "trailing\n"}, 422, "invalid-name"),
        (CSV, "data.csv", {"schema": '{"target": []}'}, 422, "unknown-field"),
        (CSV, "data.csv", {"schema": '{"targets": ["z"]}'}, 422, "invalid-data"),
        (CSV, "data.csv", {"schema": "{NaN}"}, 400, "malformed-json"),
    ],
)  # fmt: skip
def test_bad_uploads(http: httpx2.Client, api: Any, content: bytes, filename: str, parts: Any, status: int, slug: str) -> None:
    answer = upload(http, content, filename=filename, **parts)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}"), answer.text
    assert str(api.data) not in answer.text
    assert list((api.data / "files" / "staging").iterdir()) == []


def test_file_and_name_are_required(http: httpx2.Client) -> None:
    without_file = http.post(HERE, files={"name": (None, "mini")})
    assert without_file.json()["type"] == "/problems/bad-multipart"
    without_name = http.post(HERE, files={"file": ("a.csv", CSV)})
    assert without_name.json()["errors"][0] | {"message": ""} == {"pointer": "/name", "code": "missing-field", "message": ""}


def form() -> tuple[bytes, bytes, bytes]:
    head = b'--cut\r\nContent-Disposition: form-data; name="name"\r\n\r\nstream\r\n'
    head += b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    return head, b"1.25,2.5,3.75,5.0,6.25,7.5,8.75,10.0\n", b"\r\n--cut--\r\n"


def request(api: Any, length: bytes) -> bytes:
    media_type = b"multipart/form-data; boundary=cut"
    return b"POST /api/v1/datasets HTTP/1.1\r\nHost: x\r\nContent-Type: " + media_type + b"\r\n" + length + b"\r\n\r\n"


def test_too_large_is_refused_unread(api: Any) -> None:
    answer = api.raw(request(api, b"Content-Length: 99999999999"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"/problems/payload-too-large" in answer


def test_too_large_is_refused_in_mid_stream(http: httpx2.Client, api: Any) -> None:
    """A spec without Content-Length: chunks beyond the bound are not waited for."""
    start = b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = api.raw(start, *[chunk] * 17)
    assert answer.startswith(b"HTTP/1.1 413")
    assert http.get("/livez").status_code == 200


def test_a_broken_upload_leaves_nothing(http: httpx2.Client, api: Any) -> None:
    head, row, _ = form()
    staging = api.data / "files" / "staging"
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(request(api, b"Content-Length: 10000000") + head + row * 1000)
        until(lambda: any(staging.iterdir()))
    until(lambda: not any(staging.iterdir()))
    log = (api.data.parent / "log").read_text().splitlines()
    assert not any(json.loads(line).get("level") == "error" for line in log if line.startswith("{"))


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def test_a_large_upload_does_not_grow_the_service(http: httpx2.Client, api: Any) -> None:
    head, row, tail = form()
    block, blocks = row * 28_000, 120

    def body() -> Iterator[bytes]:
        yield head + b"a,b,c,d,e,f,g,h\n"
        for _ in range(blocks):
            yield block
        yield tail

    before = resident(api.process.pid)
    answer = http.post(HERE, content=body(), headers={"Content-Type": "multipart/form-data; boundary=cut"}, timeout=110)
    assert answer.status_code == 201, answer.text
    assert answer.json()["rows"] == 28_000 * blocks
    assert answer.json()["size"] > 100 * 2**20
    assert resident(api.process.pid) - before < 40 * 2**20
    assert http.delete(f"{HERE}/stream").status_code == 204
