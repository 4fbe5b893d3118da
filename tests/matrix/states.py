"""Rows 90 and 93 to 108: what a resource's state, or the service's own, forbids."""

from typing import Any

from tests.matrix.table import DATASETS, DIGITS, JOBS, MODELS, Answer, Bench, Row, asked

PIXELS = [0.0] * 64
LINE = [0.0] * 10
BLANK = {"inputs": [PIXELS]}
RANGE = "value-out-of-range"


def predict(model: str, number: int, change: dict[str, Any], status: int, slug: str, pointer: str | None = None, **more: Any) -> Row:
    row = LINE if model == "numbers" else PIXELS
    send = asked("POST", f"{MODELS}/{{{model}}}/predict", json={"inputs": [row], **change})
    return Row(number, str(change)[:50], send, status, slug, pointer, **more)


IDS = (
    "job_1",
    "job_" + "0" * 26,
    "9" * 5000,
    "%00",
    "a%00b",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "job_%ff",
    "%F0%9F%98%80",
    "' OR 1=1 --",
    "a@b@c",
    "a:0",
    "A",
)
PATHS = (
    ("GET", f"{JOBS}/%s"), ("DELETE", f"{JOBS}/%s"), ("POST", f"{JOBS}/%s/cancel"), ("POST", f"{JOBS}/%s/stop"),
    ("POST", f"{JOBS}/%s/retry"),
    ("GET", f"{JOBS}/%s/metrics"), ("GET", f"{JOBS}/%s/logs"), ("GET", f"{JOBS}/%s/events"),
    ("GET", f"{DATASETS}/%s"), ("GET", f"{DATASETS}/%s/rows"), ("DELETE", f"{DATASETS}/%s"),
    ("GET", f"{MODELS}/%s"), ("DELETE", f"{MODELS}/%s"), ("GET", f"{MODELS}/%s/report"), ("GET", f"{MODELS}/%s/report.html"),
    ("GET", f"{MODELS}/{{plain}}/files/%s"), ("GET", f"{MODELS}/{{plain}}/plots/%s.svg"), ("GET", f"{MODELS}/%s/aliases/a/history"),
    ("GET", "/problems/%s"),
)  # fmt: skip


def unknown(method: str, path: str) -> Row:
    """Every id that cannot be, at one route."""

    def send(bench: Bench) -> Answer:
        answers = [bench.ask(method, path % each) for each in IDS]
        assert {answer.status for answer in answers} == {404}, dict(zip(IDS, answers, strict=True))
        return answers[-1]

    return Row(93, f"{method} {path}", send, 404, "not-found")


def body_of(path: str, body: dict[str, Any]) -> Row:
    """The same for routes that read a body first."""

    def send(bench: Bench) -> Answer:
        answers = [bench.ask("PUT" if "aliases" in path else "POST", path % each, json=body) for each in IDS]
        assert {answer.status for answer in answers} == {404}, dict(zip(IDS, answers, strict=True))
        return answers[-1]

    return Row(93, path, send, 404, "not-found")


LISTS = (JOBS, DATASETS, MODELS)
QUERIES = [
    *(Row(94, f"{path} {cursor[:20]}", asked("GET", path, params={"cursor": cursor}), 400, "bad-cursor")
      for path in LISTS for cursor in ("", "x", "e30", "A" * 400, "bnVsbA", "../", "W10", "MQ")),
    *(Row(95, f"{path} {limit}", asked("GET", path, params={"limit": limit}), 422, "validation-error", "/query/limit")
      for path in LISTS for limit in ("0", "-1", "1000000000", "1e2", "ten", "")),
    Row(95, "rows", asked("GET", f"{DATASETS}/digits/rows", params={"limit": "0"}), 422, "validation-error", "/query/limit"),
    Row(95, "offset", asked("GET", f"{DATASETS}/digits/rows", params={"offset": str(2**70)}), 422, "validation-error", "/query/offset"),
    Row(95, "wait", asked("GET", f"{JOBS}/{{job}}", params={"wait": "nan"}), 422, "validation-error", "/query/wait"),
    Row(95, "an unknown parameter", asked("GET", JOBS, params={"limits": "3"}), 422, "validation-error", "/query/limits"),
    Row(95, "a label without its value", asked("GET", JOBS, params={"label": "a"}), 422, "validation-error", "/query/label"),
    Row(95, "NUL", asked("GET", JOBS, params={"name": "a\0"}), 422, "validation-error", "/query/name"),
    Row(95, "an unknown state", asked("GET", JOBS, params={"state": "lost"}), 422, "validation-error", "/query/state"),
]  # fmt: skip
PREDICTIONS = [
    # A model exists only once its job has succeeded.
    Row(96, "a job that waits", asked("POST", f"{MODELS}/waiting/predict", json=BLANK), 404, "not-found", on="spare"),
    Row(97, "a job that was cancelled", asked("POST", f"{MODELS}/cancelled/predict", json=BLANK), 404, "not-found", on="spare"),
    Row(93, "halved weights without dropout", asked("GET", f"{MODELS}/{{plain}}/files/test_time_scaling.safetensors"), 404, "not-found"),
    Row(97, "a job in place of a model", asked("POST", f"{MODELS}/{{job}}/predict", json=BLANK), 404, "not-found"),
    predict("plain", 98, {"inputs": [PIXELS[1:]]}, 422, "shape-mismatch", "/inputs/0", also=lambda answer: "64" in answer.json["detail"]),
    predict("plain", 98, {"inputs": [PIXELS, [*PIXELS, 0]]}, 422, "shape-mismatch", "/inputs/1"),
    predict("plain", 98, {"inputs": [[PIXELS]]}, 422, "shape-mismatch", "/inputs/0"),
    predict("numbers", 98, {"inputs": [LINE[1:]]}, 422, "shape-mismatch", "/inputs/0"),
    predict("numbers", 98, {"inputs": [{"age": 1}]}, 422, "validation-error", "/inputs/0/sex"),
    predict("plain", 99, {"inputs": [PIXELS] * 100_001}, 413, "cost-limit"),
    predict("forest", 99, {"inputs": [PIXELS] * 1000, "dropout": "monte_carlo", "samples": 100_000}, 413, "cost-limit"),
    predict("plain", 100, {"inputs": [[*PIXELS[1:], 1e39]]}, 422, "non-finite", "/inputs/0"),
    predict("plain", 100, {"inputs": [[*PIXELS[1:], "NaN"]]}, 422, "validation-error", "/inputs/0/63"),
    predict("plain", 100, {"inputs": [[*PIXELS[1:], None]]}, 422, "validation-error", "/inputs/0/63"),
    predict("numbers", 100, {"inputs": [[3e38] * 10]}, 422, "non-finite", "/inputs/0"),  # the network's own numbers overflow
    predict("numbers", 102, {"weights": [1e308, 1e308]}, 422, "value-out-of-range", "/weights"),
    predict("plain", 101, {"mode": "ensemble"}, 422, "mode-unavailable"),
    predict("plain", 101, {"mode": "monte_carlo"}, 422, "mode-unavailable"),
    *(predict("forest", 102, {"dropout": "monte_carlo", "samples": samples}, 422, RANGE, "/samples") for samples in (0, -1, 10**6)),
    *(predict("numbers", 102, {"combine": combine}, 422, "mode-unavailable") for combine in ("geometric", "vote")),
]  # fmt: skip


def project(number: int, change: dict[str, Any], slug: str, pointer: str) -> Row:
    send = asked("POST", f"{MODELS}/{{plain}}/project", json={"inputs": [PIXELS], "layer": "conv.0", **change})
    return Row(number, f"project {change}"[:50], send, 422, slug, pointer)


PROJECTIONS = [
    project(101, {}, "inconsistent-spec", "/layer"),  # a dense network
    project(44, {"layer": 3}, "validation-error", "/layer"),
    project(37, {"stronger": 3}, "unknown-field", "/stronger"),
    project(102, {"strongest": 0}, RANGE, "/strongest"),
    project(102, {"channels": [*range(65)]}, RANGE, "/channels"),
    project(44, {"members": "all"}, "unknown-choice", "/members"),
]


def twice(bench: Bench) -> Answer:
    """Cancelled once and again."""
    job = bench.ask("POST", JOBS, json={**DIGITS, "name": "twice"}).json
    first = bench.ask("POST", f"{JOBS}/{job['id']}/cancel")
    again = bench.ask("POST", f"{JOBS}/{job['id']}/cancel")
    assert (first.status, first.json["id"], again.json["id"]) == (202, job["id"], job["id"])
    return again


JOB_STATES = [
    Row(103, "cancel", asked("POST", f"{JOBS}/{{job}}/cancel"), 409, "already-terminal"),
    Row(103, "stop", asked("POST", f"{JOBS}/{{job}}/stop"), 409, "already-terminal"),
    Row(103, "retry", asked("POST", f"{JOBS}/{{job}}/retry"), 409, "not-retryable"),
    Row(104, "cancel twice", twice, 200, None, also=lambda answer: answer.json["state"] == "cancelled", on="spare"),
    Row(105, "delete a job that waits", asked("DELETE", f"{JOBS}/{{waiting}}"), 409, "job-running", on="spare"),
    Row(105, "delete its dataset", asked("DELETE", f"{DATASETS}/used"), 409, "dataset-in-use", on="spare"),
    Row(105, "delete a dataset that stays", asked("DELETE", f"{DATASETS}/digits"), 409, "dataset-builtin"),
    Row(105, "stop a job that waits", asked("POST", f"{JOBS}/{{waiting}}/stop"), 409, "not-running", on="spare"),
]
ATTACKS = [
    Row(71, f"{kind} {epsilon}", asked("POST", f"{MODELS}/{{plain}}/attack", json={
        "inputs": [PIXELS], "labels": ["1"], "attack": {"type": kind, "epsilon": epsilon, "bounds": None}}), 422, RANGE, "/attack/epsilon")
    for kind in ("random_sign", "pgd") for epsilon in (-1, 1e31, 1e300)
]  # fmt: skip
ROWS = [
    *ATTACKS,
    *(unknown(method, path) for method, path in PATHS),
    body_of(f"{MODELS}/%s/predict", {"inputs": [PIXELS]}),
    body_of(f"{MODELS}/%s/project", {"inputs": [PIXELS], "layer": "conv.0"}),
    body_of(f"{MODELS}/%s/attack", {"inputs": [PIXELS], "labels": ["1"], "attack": {"type": "fgsm", "epsilon": 1}}),
    body_of(f"{MODELS}/%s/aliases/a", {"version": 1}),
    *QUERIES, *PREDICTIONS, *PROJECTIONS, *JOB_STATES,
]  # fmt: skip
