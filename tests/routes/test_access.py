"""Keys, scopes and projects: every route, asked by everybody."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.app import create_app
from service.routes.access import Buckets
from service.settings import Settings
from service.storage import keys, models
from service.storage.models import ModelDraft
from service.storage.sessions import Database
from tests.routes.conftest import API, served
from tests.routes.test_jobs import SPEC

SCOPES = ("read", "predict", "train", "admin")
CSV = {"file": ("t.csv", b"a,b,y\n1,2,x\n3,4,z\n5,6,x\n7,8,z\n", "text/csv"), "name": (None, b"mine")}
# What each route of ours needs, and how it is asked so that its owner is let through; the status tells who answered.
ASKED: dict[str, tuple[str, dict[str, Any], int]] = {
    "GET /api/v1/datasets": ("read", {}, 200),
    "POST /api/v1/datasets": ("train", {"files": CSV}, 201),
    "GET /api/v1/datasets/{ref}": ("read", {}, 200),
    "GET /api/v1/datasets/{ref}/rows": ("read", {}, 200),
    "DELETE /api/v1/datasets/{ref}": ("train", {}, 204),
    "GET /api/v1/jobs": ("read", {}, 200),
    "POST /api/v1/jobs": ("train", {"json": SPEC}, 202),
    "POST /api/v1/jobs:validate": ("train", {"json": SPEC}, 200),
    "GET /api/v1/jobs/{job_id}": ("read", {}, 200),
    "GET /api/v1/jobs/{job_id}/metrics": ("read", {}, 200),
    "GET /api/v1/jobs/{job_id}/logs": ("read", {}, 200),
    "GET /api/v1/jobs/{job_id}/events": ("read", {"params": {"after": 99}}, 204),
    "POST /api/v1/jobs/{job_id}/stop": ("train", {}, 409),
    "POST /api/v1/jobs/{job_id}/cancel": ("train", {}, 200),
    "POST /api/v1/jobs/{job_id}/retry": ("train", {}, 202),
    "DELETE /api/v1/jobs/{job_id}": ("train", {}, 204),
    "GET /api/v1/models": ("read", {}, 200),
    "GET /api/v1/models/{ref}": ("read", {}, 200),
    "GET /api/v1/models/{ref}/report": ("read", {}, 503),  # its files are not there, which only its owner gets to know
    "GET /api/v1/models/{ref}/report.html": ("read", {}, 503),
    "GET /api/v1/models/{ref}/plots/{name}.svg": ("read", {}, 503),
    "GET /api/v1/models/{ref}/files/{name}": ("read", {}, 503),
    "POST /api/v1/models/{ref}/predict": ("predict", {"json": {"inputs": [[0.0] * 64]}}, 503),
    "POST /api/v1/models/{ref}/attack": (
        "predict",
        {"json": {"inputs": [[0.0] * 64], "labels": ["1"], "attack": {"type": "fgsm", "epsilon": 1.0}}},
        503,
    ),
    "POST /api/v1/models/{ref}/project": ("predict", {"json": {"inputs": [[0.0] * 64], "layer": "conv.0"}}, 503),
    "PUT /api/v1/models/{name}/aliases/{alias}": ("train", {"json": {"version": 1}}, 200),
    "DELETE /api/v1/models/{name}/aliases/{alias}": ("train", {}, 200),
    "GET /api/v1/models/{name}/aliases/{alias}/history": ("read", {}, 200),
    "DELETE /api/v1/models/{ref}": ("train", {}, 204),
    "GET /api/v1/keys": ("admin", {}, 200),
    "POST /api/v1/keys": ("admin", {"json": {"name": "made", "scopes": ["read"]}}, 201),
    "GET /api/v1/keys/{key_id}": ("admin", {}, 200),
    "DELETE /api/v1/keys/{key_id}": ("admin", {}, 204),
    "GET /api/v1/catalog": ("read", {}, 200),
    "GET /metrics": ("read", {}, 200),
}
OPEN = {"GET /livez", "GET /readyz", "GET /problems/{slug}"}


class Desk:
    """A keyed service with two projects, and something of everything in the first."""

    def __init__(self, api: API) -> None:
        self.api, self.database = api, Database(f"sqlite:///{api.data / 'temper.db'}")
        self.owners = {scope: self.key("default", scope)[1] for scope in SCOPES}
        self.strangers = {scope: self.key("other", scope)[1] for scope in SCOPES}
        revoked, self.revoked = self.key("default", "admin")
        with self.database.write() as c:
            keys.revoke(c, "default", revoked)
        self.expired = self.key("default", "admin", expires_in_s=0.001)[1]
        time.sleep(0.01)

    def key(self, project: str, *scopes: str, expires_in_s: float | None = None) -> tuple[str, str]:
        with self.database.write() as c:
            key, token = keys.create(c, project, name="k", scopes=scopes, expires_in_s=expires_in_s)
        return key.id, token

    def ask(self, route: str, token: str | None, **parts: Any) -> httpx2.Response:
        method, _, path = route.partition(" ")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.request(method, self.api.url + path, headers=headers, timeout=60, **parts)

    def filled(self, path: str) -> str:
        """The path with the first project's things in its places, made anew."""
        if "{job_id}" in path:
            job = self.ask("POST /api/v1/jobs", self.owners["train"], json=SPEC).json()["id"]
            if path.endswith(("cancel", "retry", "{job_id}", "events")):
                self.ask(f"POST /api/v1/jobs/{job}/cancel", self.owners["train"])
            return path.replace("{job_id}", job)
        if "{key_id}" in path:
            return path.replace("{key_id}", self.key("default", "read")[0])
        if "/datasets/{ref}" in path:
            dataset = self.ask("POST /api/v1/datasets", self.owners["train"], files=CSV).json()["id"]
            return path.replace("{ref}", dataset)
        if "/models/" in path:
            name = self.model()
            if "alias" in path and not path.startswith("PUT"):
                self.ask(f"PUT /api/v1/models/{name}/aliases/best", self.owners["train"], json={"version": 1})
            path = path.replace("{ref}", name).replace("/models/{name}", f"/models/{name}").replace("{alias}", "best")
            return path.replace("{name}.svg", "learning_curves.svg").replace("files/{name}", "files/model.safetensors")
        return path

    def model(self) -> str:
        """A model whose files are gone."""
        name = f"m{time.monotonic_ns()}"
        lost = {each: {"key": f"models/none/{each}", "size": 1, "sha256": "0" * 64} for each in FILES}
        draft = ModelDraft(
            id=f"mdl_{keys.new_id('x')[2:]}", name=name, spec={}, signature={}, layers=[], parameters=1, metrics={}, members=1, files=lost,
            sha256="0" * 64,
        )  # fmt: skip
        with self.database.write() as c:
            models.insert(c, "default", draft, job_id=None, dataset_id=None, labels={})
        return name


FILES = ("model.safetensors", "spec.json", "encoding.json", "report.json", "report.html", "learning_curves.svg")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with served(tmp_path_factory.mktemp("keyed"), TEMPER_AUTH="keys") as api:
        desk = Desk(api)
        yield desk
        desk.database.close()


def test_the_table_has_every_route(tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path))
    routes = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    assert routes == set(ASKED) | OPEN


def problem(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


@pytest.mark.parametrize("route", ASKED)
def test_who_may_ask(keyed: Desk, route: str) -> None:
    scope, parts, status = ASKED[route]
    for token in (None, "x", "temper_x", keyed.revoked, keyed.expired, keyed.owners["admin"] + "x", keyed.owners["admin"][:-1] + "~"):
        answer = keyed.ask(keyed.filled(route) if token is None else route, token, **parts)
        assert problem(answer) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert {**answer.json(), "instance": "", "request_id": ""} == {
            "type": "/problems/unauthenticated", "title": "Unauthenticated", "status": 401, "instance": "", "request_id": "",
            "detail": "A key that holds has to be sent as Authorization: Bearer.",
        }  # fmt: skip
    for other in set(SCOPES) - {scope, "admin"}:
        assert problem(keyed.ask(route, keyed.owners[other], **parts)) == (403, "forbidden")
    path = keyed.filled(route)
    if path != route:  # it names something: for another project there is no such thing
        for stranger in (scope, "admin"):
            assert problem(keyed.ask(path, keyed.strangers[stranger], **parts)) == (404, "not-found")
    assert keyed.ask(path, keyed.owners[scope], **parts).status_code == status
    path = keyed.filled(route)
    assert keyed.ask(path, keyed.owners["admin"], **parts).status_code == status


def test_lists_show_only_ones_own(keyed: Desk) -> None:
    keyed.filled("/api/v1/jobs/{job_id}")
    keyed.filled("/api/v1/models/{ref}")
    keyed.filled("/api/v1/datasets/{ref}")
    for what in ("jobs", "models", "datasets", "keys"):
        mine, theirs = (keyed.ask(f"GET /api/v1/{what}?limit=200", who["admin"]).json()["items"] for who in (keyed.owners, keyed.strangers))
        assert mine
        assert {item["id"] for item in mine}.isdisjoint(item["id"] for item in theirs)


def test_what_is_open_needs_no_key(keyed: Desk) -> None:
    for path in ("/livez", "/readyz", "/problems/forbidden", "/openapi.json", "/docs"):
        assert keyed.ask(f"GET {path}", None).status_code == 200, path
    assert problem(keyed.ask("GET /api/v1/nothing", None))[0] in (401, 404)


def test_a_key_is_checked_before_the_body(keyed: Desk) -> None:
    assert keyed.ask("POST /api/v1/jobs", None, content=b"{").status_code == 401
    assert keyed.ask("POST /api/v1/datasets", keyed.owners["read"], content=b"x" * 1000).status_code == 403


def test_a_secret_is_shown_once(keyed: Desk) -> None:
    sent = {"name": "ci", "scopes": ["predict", "read"], "expires_in_s": 3600}
    made = keyed.ask("POST /api/v1/keys", keyed.owners["admin"], json=sent).json()
    assert made["scopes"] == ["read", "predict"]
    assert made["expires_at"] > made["created_at"]
    assert keyed.ask("GET /api/v1/models", made["key"]).status_code == 200
    read = keyed.ask(f"GET /api/v1/keys/{made['id']}", keyed.owners["admin"]).json()
    assert read.keys() == made.keys() - {"key"}
    assert read["used_at"] is not None
    secret = made["key"].rpartition("_")[2]
    for path in keyed.api.data.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    assert secret not in (keyed.api.data.parent / "log").read_text()
    assert keyed.ask(f"DELETE /api/v1/keys/{made['id']}", keyed.owners["admin"]).status_code == 204
    assert problem(keyed.ask("GET /api/v1/models", made["key"])) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"name": "x"}, "/scopes"),
        ({"name": "x", "scopes": []}, "/scopes"),
        ({"name": "x", "scopes": ["write"]}, "/scopes/0"),
        ({"name": "../x", "scopes": ["read"]}, "/name"),
        ({"name": "x", "scopes": ["read"], "expires_in_s": 0}, "/expires_in_s"),
        ({"name": "x", "scopes": ["read"], "project": "other"}, "/project"),
    ],
)
def test_keys_that_cannot_be_made(keyed: Desk, sent: dict[str, Any], pointer: str) -> None:
    answer = keyed.ask("POST /api/v1/keys", keyed.owners["admin"], json=sent)
    assert answer.status_code == 422
    assert [flaw["pointer"] for flaw in answer.json()["errors"]] == [pointer]


def test_buckets_fill_with_time() -> None:
    at = [0.0]
    buckets = Buckets(2.0, 3, clock=lambda: at[0])
    assert [buckets.take("a") for _ in range(3)] == [0.0] * 3
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("b") == 0.0
    at[0] = 0.5
    assert buckets.take("a") == 0.0
    assert buckets.take("a") > 0
    at[0] = 100.0
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.5)]


def test_limits_of_a_key_and_of_a_project(tmp_path: Path) -> None:
    limits = {"TEMPER_KEY_RATE": "0.5", "TEMPER_KEY_BURST": "4", "TEMPER_PROJECT_JOBS": "2", "TEMPER_PROJECT_BYTES": "40"}
    with served(tmp_path, TEMPER_AUTH="keys", **limits) as api:
        desk = Desk(api)
        token = desk.owners["train"]
        answers = [desk.ask("POST /api/v1/jobs", token, json=SPEC) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202, 202, 429, 429, 429]
        assert [problem(answer)[1] for answer in answers[2:]] == ["queue-full", "queue-full", "rate-limited"]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers[2:])
        other = desk.owners["admin"]  # another key of the project has a bucket of its own, and the same quota
        assert problem(desk.ask("POST /api/v1/jobs", other, json=SPEC)) == (429, "queue-full")
        assert problem(desk.ask("POST /api/v1/datasets", other, files=CSV)) == (413, "quota-exceeded")
        desk.database.close()


def test_the_first_key_comes_from_the_command_line(tmp_path: Path) -> None:
    told = {**os.environ, "TEMPER_DATA": str(tmp_path / "data")}

    def say(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "temper", "keys", *words], check=False, env=told, capture_output=True, text=True)

    made = say("create", "first", "--scope", "read", "--scope", "train", "--project", "lab")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    with (
        served(tmp_path, TEMPER_AUTH="keys") as api,
        httpx2.Client(base_url=api.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http,
    ):
        names = {dataset["name"] for dataset in http.get("/api/v1/datasets").json()["items"]}
        assert names == {"digits", "diabetes"}  # a new project has the built-in datasets
        assert http.post("/api/v1/jobs", json=SPEC).status_code == 202
        listed = say("list", "--project", "lab").stdout
        assert "holds" in listed
        key_id = next(word for word in listed.split() if word.startswith("key_"))
        assert say("revoke", key_id, "--project", "lab").returncode == 0
        assert http.get("/api/v1/jobs").status_code == 401
    assert "revoked" in say("list", "--project", "lab").stdout
    assert say("create", "x", "--scope", "write").returncode == 2
    assert say("revoke", "key_none").returncode == 1


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_other_sites_are_kept_out_where_no_key_is_asked_for(http: httpx2.Client, origin: str) -> None:
    answer = http.post("/api/v1/datasets", files=CSV, headers={"Origin": origin})
    assert problem(answer) == (403, "forbidden")
    assert http.get("/api/v1/jobs", headers={"Origin": str(http.base_url).rstrip("/")}).status_code == 200


def test_no_key_may_be_left_out_on_other_addresses(tmp_path: Path) -> None:
    assert create_app(Settings(data=tmp_path), loopback=False).state.services.gate.keyed
    assert create_app(Settings(data=tmp_path, auth="off"), loopback=False).state.services.gate.keyed
    assert create_app(Settings(data=tmp_path, auth="keys")).state.services.gate.keyed
    assert create_app(Settings(data=tmp_path, database_url="postgresql://h/d")).state.services.gate.keyed
    assert not create_app(Settings(data=tmp_path)).state.services.gate.keyed
