"""Health, meta pages and the edge itself."""

import json
import re

import httpx2
import pytest

from service import errors
from service.errors import SPECIFIC, TemperError
from service.routes import problems
from service.routes.pages import PAGES


def kinds(root: type[TemperError]) -> list[type[TemperError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


def test_live_and_ready(http: httpx2.Client) -> None:
    assert http.get("/livez").json() == {"live": True}
    ready = http.get("/readyz").json()
    assert ready["ready"] is True
    assert ready["dependencies"]["database"]["state"] == ready["dependencies"]["files"]["state"] == "ok"
    assert ready["dependencies"]["workers"] == {"state": "missing", "required": False, "detail": "0 seen within 60 s"}


def test_metrics_count_requests_by_route(http: httpx2.Client) -> None:
    for _ in range(3):
        http.get("/livez")
    found = re.search(r'temper_requests_total\{method="GET",route="/livez",status="200"\} (\d+)', http.get("/metrics").text)
    assert found is not None
    assert int(found[1]) >= 3


def test_the_document_resolves_and_describes_bodies(http: httpx2.Client) -> None:
    document = http.get("/openapi.json").json()
    assert http.get("/docs").status_code == 200
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in schemas
    assert "requestBody" in document["paths"]["/api/v1/jobs"]["post"]
    assert "requestBody" in document["paths"]["/api/v1/datasets"]["post"]


def test_every_slug_has_a_page(http: httpx2.Client) -> None:
    slugs = {kind.slug for kind in kinds(TemperError) if kind.__module__ in (errors.__name__, problems.__name__)} | SPECIFIC
    assert slugs <= set(PAGES)
    for slug in sorted(slugs):
        assert http.get(f"/problems/{slug}").status_code == 200
    assert http.get("/problems/none").status_code == 404


def test_the_requests_id(http: httpx2.Client) -> None:
    assert http.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    fresh = http.get("/livez", headers={"X-Request-ID": "a b"}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", fresh)
    problem = http.get("/none", headers={"X-Request-ID": "abc-2"}).json()
    assert problem["request_id"] == "abc-2"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "slug"),
    [
        ("GET", "/none", {}, 404, "not-found"),
        ("PUT", "/api/v1/jobs", {}, 405, "method-not-allowed"),
        ("GET", "/api/v1/jobs", {"Accept": "text/html"}, 406, "not-acceptable"),
        ("GET", "/api/v1/jobs", {"Accept": "application/json;q=0"}, 406, "not-acceptable"),
        ("POST", "/api/v1/jobs", {}, 415, "unsupported-media-type"),
        ("POST", "/api/v1/jobs", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        ("POST", "/api/v1/jobs", {"Content-Type": "application/json; charset=utf-16"}, 415, "unsupported-media-type"),
        ("POST", "/api/v1/jobs", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        ("POST", "/api/v1/jobs", {"Content-Type": "application/json"}, 400, "malformed-json"),
        ("GET", "/" + "a" * 9000, {}, 414, "uri-too-long"),
        ("GET", "/livez", {"X-Long": "a" * 17_000}, 431, "header-too-large"),
    ],
)
def test_the_edge_refuses(http: httpx2.Client, method: str, path: str, headers: dict[str, str], status: int, slug: str) -> None:
    answer = http.request(method, path, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"/problems/{slug}"
    assert problem["status"] == status
    assert problem.keys() >= {"title", "detail", "instance", "request_id"}


def test_allow_names_all_methods(http: httpx2.Client) -> None:
    assert http.patch("/api/v1/jobs").headers["allow"] == "GET, HEAD, POST"


def test_unknown_addresses_of_the_inference_protocol(http: httpx2.Client) -> None:
    answer = http.get("/v2/none")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json().keys() == {"error"}
