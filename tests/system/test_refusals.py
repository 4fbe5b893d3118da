"""What is refused: status, problem, pointer; table by table, over HTTP."""

from typing import Any

import pytest

from tests.system.desk import Desk

# What is refused does not depend on where rows and messages lie.
pytestmark = pytest.mark.parametrize("stack", ["embedded"], indirect=True, scope="session")
MLP = {"type": "mlp", "hidden": [8]}
BASE = {"dataset": "digits", "architecture": MLP}
WIDE = [10**9, 10**6]
DENSE = {"type": "linear", "width": "8"}


def layers(*listed: dict[str, Any]) -> dict[str, Any]:
    return {"type": "layers", "layers": [*listed]}


# What is changed in a good spec, the problem, the pointer of the first error.
SPECS: list[tuple[dict[str, Any], str, str]] = [
    ({"dataset": "nowhere"}, "not-found", "/dataset"),
    ({"datset": "digits"}, "unknown-field", "/datset"),
    ({"architecture": {"type": "transformer"}}, "unknown-choice", "/architecture/type"),
    ({"architecture": {"type": "resnet", "depth": 21}}, "inconsistent-spec", "/architecture/depth"),
    ({"architecture": {"hidden": [8]}}, "validation-error", "/architecture/type"),
    ({"architecture": {"type": "mlp"}}, "validation-error", "/architecture/hidden"),
    ({"architecture": {**MLP, "hidden": [0]}}, "value-out-of-range", "/architecture/hidden/0"),
    ({"architecture": {**MLP, "hidden": ["8"]}}, "validation-error", "/architecture/hidden/0"),
    ({"architecture": {**MLP, "hidden": [True]}}, "validation-error", "/architecture/hidden/0"),
    ({"architecture": {**MLP, "hidden": [8.0]}}, "validation-error", "/architecture/hidden/0"),
    ({"architecture": {**MLP, "hidden": [8] * 129}}, "value-out-of-range", "/architecture/hidden"),
    ({"architecture": {**MLP, "hidden": [10**9]}}, "cost-limit", "/architecture"),
    ({"architecture": {**MLP, "hidden": WIDE}}, "cost-limit", "/architecture"),
    ({"architecture": {**MLP, "hidden": [10**300]}}, "cost-limit", "/architecture"),
    ({"architecture": {**MLP, "activation": "swish"}}, "unknown-choice", "/architecture/activation"),
    ({"architecture": {**MLP, "dropout": 1.0}}, "value-out-of-range", "/architecture/dropout"),
    ({"architecture": {**MLP, "dropout": -0.1}}, "value-out-of-range", "/architecture/dropout"),
    ({"architecture": {**MLP, "hidden": [8, 8], "dropout": {"hidden": [0.1]}}}, "inconsistent-spec", "/architecture/dropout/hidden"),
    ({"architecture": {**MLP, "hidden": [8, 4, 4], "residual": True}}, "inconsistent-spec", "/architecture/hidden"),
    ({"architecture": {**MLP, "batch_norm": True}, "batch_size": 1}, "inconsistent-spec", "/batch_size"),
    ({"architecture": layers({"type": "linear", "width": 8})}, "inconsistent-spec", "/architecture/layers/0"),
    ({"architecture": layers({"type": "pool"})}, "unknown-choice", "/architecture/layers/0/type"),
    ({"architecture": layers({"type": "residual", "layers": [DENSE]})}, "validation-error", "/architecture/layers/0/layers/0/width"),
    ({"architecture": layers({"type": "flatten"}, {"type": "linear", "width": 10**9})}, "cost-limit", "/architecture"),
    ({"targets": [{"name": "colour"}]}, "inconsistent-spec", "/targets/0/name"),
    ({"targets": [{"name": "label", "loss": "hinge"}]}, "unknown-choice", "/targets/0/loss"),
    ({"targets": [{"name": "label", "task": "regression"}]}, "inconsistent-spec", "/targets/0/task"),
    ({"targets": [{"name": "label", "label_smoothing": 1.0}]}, "value-out-of-range", "/targets/0/label_smoothing"),
    ({"targets": [{"name": "label", "gamma": 2}]}, "inconsistent-spec", "/targets/0/gamma"),
    ({"targets": [{"name": "label"}, {"name": "label"}]}, "inconsistent-spec", "/targets/1/name"),
    ({"targets": []}, "value-out-of-range", "/targets"),
    ({"regularizers": [{"type": "l2"}]}, "validation-error", "/regularizers/0/alpha"),
    ({"regularizers": [{"type": "l2", "alpha": -1.0}]}, "value-out-of-range", "/regularizers/0/alpha"),
    ({"regularizers": [{"type": "l3", "alpha": 1.0}]}, "unknown-choice", "/regularizers/0/type"),
    ({"regularizers": [{"type": "l2", "alpha": 1.0, "layers": ["hidden.7"]}]}, "inconsistent-spec", "/regularizers/0/layers/0"),
    ({"regularizers": [{"type": "l2", "alpha": 1.0, "layers": []}]}, "inconsistent-spec", "/regularizers/0"),
    ({"regularizers": [{"type": "max_norm", "limit": 1.0}], "architecture": {**MLP, "hidden": []}}, "inconsistent-spec", "/regularizers/0"),
    ({"regularizers": [{"type": "l2", "alpha": 1.0}, {"type": "l2", "alpha": 2.0}]}, "inconsistent-spec", "/regularizers/1"),
    ({"augmentation": [{"type": "flip", "axis": "horizontal"}]}, "breaks-invariance", "/augmentation/0/axis"),
    ({"augmentation": [{"type": "rotate", "degrees": 180.0}]}, "breaks-invariance", "/augmentation/0/degrees"),
    ({"augmentation": [{"type": "mixup"}, {"type": "translate", "pixels": 2}]}, "breaks-invariance", "/augmentation/1/pixels"),
    ({"augmentation": [{"type": "translate", "pixels": 8}]}, "value-out-of-range", "/augmentation/0/pixels"),
    ({"augmentation": [{"type": "translate", "pixels": 0.5}]}, "validation-error", "/augmentation/0/pixels"),
    ({"augmentation": [{"type": "cutout", "size": 9}]}, "value-out-of-range", "/augmentation/0/size"),
    ({"augmentation": [{"type": "scale", "low": 1.2}]}, "inconsistent-spec", "/augmentation/0/low"),
    ({"augmentation": [{"type": "shear"}]}, "unknown-choice", "/augmentation/0/type"),
    ({"dataset": "diabetes", "augmentation": [{"type": "rotate", "degrees": 5.0}]}, "inconsistent-spec", "/augmentation/0/type"),
    ({"dataset": "diabetes", "augmentation": [{"type": "mixup"}, {"type": "cutmix"}]}, "inconsistent-spec", "/augmentation/1/type"),
    ({"adversarial_training": {"method": "free", "epsilon": 1.0}}, "unknown-choice", "/adversarial_training/method"),
    (
        {
            "dataset": "diabetes",
            "adversarial_training": {"method": "ibp", "epsilon": 1.0},
            "targets": [{"name": "target", "loss": "gaussian_nll"}],
        },
        "inconsistent-spec",
        "/adversarial_training/method",
    ),
    ({"adversarial_training": {"epsilon": 1.0}}, "validation-error", "/adversarial_training/method"),
    ({"adversarial_training": {"method": "noise", "std": 1.0, "epsilon": 1.0}}, "unknown-field", "/adversarial_training/epsilon"),
    (
        {"dataset": "diabetes", "adversarial_training": {"method": "trades", "epsilon": 1.0}},
        "inconsistent-spec",
        "/adversarial_training/method",
    ),
    (
        {"dataset": "diabetes", "adversarial_training": {"method": "vat", "epsilon": 1.0}},
        "inconsistent-spec",
        "/adversarial_training/method",
    ),
    ({"ensemble": {"size": 0}}, "value-out-of-range", "/ensemble/size"),
    ({"ensemble": {"size": 10**6}}, "cost-limit", "/ensemble/size"),
    ({"ensemble": {"fraction": 0}}, "value-out-of-range", "/ensemble/fraction"),
    ({"ensemble": {"size": 2, "seeds": [1]}}, "inconsistent-spec", "/ensemble/seeds"),
    ({"ensemble": {"size": 2, "selection": "best"}}, "unknown-choice", "/ensemble/selection"),
    ({"ensemble": {"selection": "greedy"}}, "inconsistent-spec", "/ensemble/selection"),
    ({"ensemble": {"size": 2, "selection": "greedy"}, "split": {"test": 0.2}}, "inconsistent-spec", "/ensemble/selection"),
    ({"ensemble": {"vary": {"learning_rate": []}}}, "value-out-of-range", "/ensemble/vary/learning_rate"),
    ({"ensemble": {"vary": {"learning_rate": [0.1] * 201}}}, "value-out-of-range", "/ensemble/vary/learning_rate"),
    ({"ensemble": {"vary": {"learning_rate": [0.1, 0.0]}}}, "value-out-of-range", "/ensemble/vary/learning_rate/1"),
    ({"ensemble": {"vary": {"learning_rate": 0.1}}}, "validation-error", "/ensemble/vary/learning_rate"),
    ({"ensemble": {"vary": {"dropout": [0.5, 1.0]}}}, "value-out-of-range", "/ensemble/vary/dropout/1"),
    ({"ensemble": {"vary": {"dropout": [0.5]}}, "architecture": {**MLP, "hidden": []}}, "inconsistent-spec", "/ensemble/vary/dropout"),
    (
        {"ensemble": {"vary": {"dropout": [0.5]}}, "architecture": {**MLP, "dropout": {"hidden": [0.1]}}},
        "inconsistent-spec",
        "/ensemble/vary/dropout",
    ),
    ({"ensemble": {"vary": {"alpha": [-1.0]}}}, "value-out-of-range", "/ensemble/vary/alpha/0"),
    ({"ensemble": {"vary": {"alpha": [1.0]}}}, "inconsistent-spec", "/ensemble/vary/alpha"),
    (
        {"ensemble": {"vary": {"alpha": [1.0]}}, "regularizers": [{"type": "max_norm", "limit": 1.0}]},
        "inconsistent-spec",
        "/ensemble/vary/alpha",
    ),
    (
        {"ensemble": {"vary": {"alpha": [1.0]}}, "regularizers": [{"type": "l2", "alpha": 1.0}, {"type": "l1", "alpha": 1.0}]},
        "inconsistent-spec",
        "/ensemble/vary/alpha",
    ),
    ({"ensemble": {"vary": {"width": [8]}}}, "unknown-field", "/ensemble/vary/width"),
    ({"optimizer": {"type": "rmsprop"}}, "unknown-choice", "/optimizer/type"),
    ({"optimizer": {"type": "adam", "learning_rate": 0}}, "value-out-of-range", "/optimizer/learning_rate"),
    ({"optimizer": {"type": "adam", "learning_rate": 1e9}}, "value-out-of-range", "/optimizer/learning_rate"),
    ({"schedule": {"type": "step"}}, "validation-error", "/schedule/every"),
    ({"epochs": 0}, "value-out-of-range", "/epochs"),
    ({"epochs": 10**9}, "value-out-of-range", "/epochs"),
    ({"batch_size": 10**6}, "value-out-of-range", "/batch_size"),
    ({"batch_size": "some"}, "value-out-of-range", "/batch_size"),
    ({"gradient_clip": {"norm": 0}}, "value-out-of-range", "/gradient_clip/norm"),
    ({"precision": "bf16"}, "unknown-choice", "/precision"),
    ({"early_stopping": {"patience": 0}}, "value-out-of-range", "/early_stopping/patience"),
    ({"early_stopping": {"monitor": "luck"}}, "unknown-choice", "/early_stopping/monitor"),
    ({"early_stopping": {"then": "again"}}, "unknown-choice", "/early_stopping/then"),
    ({"early_stopping": {"then": "retrain", "retrain_by": "rows"}}, "unknown-choice", "/early_stopping/retrain_by"),
    ({"early_stopping": {"then": "continue", "cap_epochs": 0}}, "value-out-of-range", "/early_stopping/cap_epochs"),
    ({"early_stopping": {"then": "continue", "cap_epochs": 10**9}}, "value-out-of-range", "/early_stopping/cap_epochs"),
    ({"early_stopping": {"then": "retrain"}, "split": {"test": 0.2}}, "inconsistent-spec", "/early_stopping"),
    (
        {"early_stopping": {"then": "retrain"}, "dataset": "diabetes", "targets": [{"name": "target", "noise_std": "validation"}]},
        "inconsistent-spec",
        "/targets/0/noise_std",
    ),
    ({"early_stopping": {"monitor": "adversarial_loss"}}, "inconsistent-spec", "/early_stopping/monitor"),
    (
        {"early_stopping": {"then": "continue"}, "ensemble": {"size": 2, "selection": "greedy"}},
        "inconsistent-spec",
        "/ensemble/selection",
    ),
    ({"early_stopping": {"patience": 3}, "split": {"test": 0.2}}, "inconsistent-spec", "/early_stopping"),
    ({"split": {"validation": 1.0}}, "value-out-of-range", "/split/validation"),
    ({"split": "given"}, "inconsistent-spec", "/split"),
    ({"split": "random"}, "unknown-choice", "/split"),
    ({"split": {"test_rows": [1797]}}, "value-out-of-range", "/split/test_rows/0"),
    ({"split": {"test_rows": [3, 3]}}, "inconsistent-spec", "/split/test_rows/1"),
    ({"split": {"group": "hospital"}}, "inconsistent-spec", "/split/group"),
    ({"features": {"use": ["nothing"]}}, "inconsistent-spec", "/features/use/0"),
    ({"name": "../etc"}, "invalid-name", "/name"),
    ({"name": "job_1"}, "invalid-name", "/name"),
    ({"name": "a\n"}, "invalid-name", "/name"),
    ({"seed": -1}, "value-out-of-range", "/seed"),
    ({"seed": 2**64}, "value-out-of-range", "/seed"),
    ({"priority": 101}, "value-out-of-range", "/priority"),
    ({"device": "cuda:7"}, "device-unavailable", "/device"),
    ({"labels": {str(i): "x" for i in range(33)}}, "value-out-of-range", "/labels"),
    ({"init": {"model": "nowhere"}}, "not-found", "/init/model"),
    ({"kind": "sweep"}, "unknown-choice", "/kind"),
]


@pytest.mark.parametrize(("change", "slug", "pointer"), SPECS, ids=[f"{i}-{pointer}" for i, (_, _, pointer) in enumerate(SPECS)])
def test_a_wrong_spec_is_refused_with_its_place(desk: Desk, change: dict[str, Any], slug: str, pointer: str) -> None:
    for path in ("/api/v1/jobs:validate", "/api/v1/jobs"):
        answer = desk.http.post(path, json={**BASE, **change})
        problem = answer.json()
        assert answer.status_code == 422, problem
        assert problem["type"] == f"/problems/{slug}", problem
        assert problem["errors"][0]["pointer"] == pointer, problem
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.content) <= 8192
    if slug == "unknown-choice" and pointer.endswith("/type"):
        assert any(word in problem["errors"][0]["message"] for word in ("mlp", "'max_pool'", "'l2'", "gaussian_noise", "'adam'"))


# Bodies that no reader should choke on; {} stands where the value goes.
BODIES: list[tuple[bytes, int, str]] = [
    (b'{"dataset": NaN}', 400, "malformed-json"),
    (b'{"dataset": Infinity}', 400, "malformed-json"),
    (b'{"epochs": 1e999}', 422, "out-of-range"),
    (b'{"epochs": 1' + b"0" * 400 + b"}", 422, "out-of-range"),
    (b'{"epochs": 1' + b"0" * 5000 + b"}", 400, "malformed-json"),
    (b'{"dataset": "\\ud800"}', 400, "malformed-json"),
    (b'{"dataset": "a\\u0000b"}', 422, "validation-error"),
    (b'{"dataset": 1, "dataset": 2}', 400, "duplicate-key"),
    (b'{"a":' * 33 + b"1" + b"}" * 33, 400, "json-too-deep"),
    (b"[" * 100_000, 400, "json-too-deep"),
    (b'\xef\xbb\xbf{"dataset": 1}', 400, "malformed-json"),
    (b'{"dataset": "\xff"}', 400, "malformed-json"),
    (b'{"dataset": 1', 400, "malformed-json"),
    (b"", 400, "malformed-json"),
    (b"{} {}", 400, "malformed-json"),
    (b"[]", 422, "validation-error"),
    (b"null", 422, "validation-error"),
    (b"7", 422, "validation-error"),
    (b'{"targets": [' + b"7," * 99_999 + b"7]}", 422, ""),
    (b'{"' + b"k" * 900_000 + b'": 1}', 422, ""),
]


@pytest.mark.parametrize("path", ["/api/v1/jobs:validate", "/api/v1/models/digits/predict", "/api/v1/models/digits/attack"])
@pytest.mark.parametrize(("body", "status", "slug"), BODIES, ids=[str(i) for i in range(len(BODIES))])
def test_nasty_json_never_gives_a_500(desk: Desk, path: str, body: bytes, status: int, slug: str) -> None:
    if "/models/" in path and desk.http.get("/api/v1/models/digits").status_code == 404:
        desk.run({**BASE, "name": "digits", "epochs": 1})
    answer = desk.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"/problems/{slug}" or not slug
    assert len(answer.content) <= 8192


@pytest.fixture(scope="module")
def model(desk: Desk) -> str:
    job = desk.run({**BASE, "name": "refusing", "epochs": 2, "architecture": {**MLP, "dropout": 0.2}, "ensemble": {"size": 2}})
    return str(job["model"])


PIXELS = [[0.0] * 8] * 8
QUESTIONS: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 422, "validation-error", "/inputs"),
    ({"inputs": []}, 422, "value-out-of-range", "/inputs"),
    ({"inputs": 3}, 422, "validation-error", "/inputs"),
    ({"inputs": [[0.0] * 63]}, 422, "shape-mismatch", "/inputs/0"),
    ({"inputs": [PIXELS, [[0.0] * 8] * 7]}, 422, "shape-mismatch", "/inputs/1"),
    ({"inputs": [PIXELS, [*PIXELS[:7], [*[0.0] * 7, "x"]]]}, 422, "validation-error", "/inputs/1/7/7"),
    ({"inputs": [[*[0.0] * 63, True]]}, 422, "validation-error", "/inputs/0/63"),
    ({"inputs": [[*[0.0] * 63, 1e300]]}, 422, "non-finite", "/inputs/0"),
    ({"inputs": [{"image": PIXELS, "colour": 1}]}, 422, "unknown-field", "/inputs/0/colour"),
    ({"inputs": [PIXELS], "mode": "exact", "members": 0}, 422, "inconsistent-spec", "/mode"),
    ({"inputs": [PIXELS], "mode": "best"}, 422, "unknown-choice", "/mode"),
    ({"inputs": [PIXELS], "members": 2}, 422, "value-out-of-range", "/members"),
    ({"inputs": [PIXELS], "members": "some"}, 422, "unknown-choice", "/members"),
    ({"inputs": [PIXELS], "samples": 0}, 422, "value-out-of-range", "/samples"),
    ({"inputs": [PIXELS], "samples": 10**6}, 422, "value-out-of-range", "/samples"),
    ({"inputs": [PIXELS], "weights": [1.0]}, 422, "shape-mismatch", "/weights"),
    ({"inputs": [PIXELS], "weights": [-1.0, 2.0]}, 422, "value-out-of-range", "/weights"),
    ({"inputs": [PIXELS], "return": ["luck"]}, 422, "unknown-choice", "/return/0"),
    ({"inputs": [PIXELS], "return": ["code"]}, 422, "unknown-choice", "/return/0"),
    ({"inputs": [PIXELS], "level": 1.0}, 422, "value-out-of-range", "/level"),
    ({"inputs": [PIXELS] * 1000, "dropout": "monte_carlo", "samples": 100_000}, 413, "cost-limit", ""),
]


@pytest.mark.parametrize(("asked", "status", "slug", "pointer"), QUESTIONS, ids=[str(i) for i in range(len(QUESTIONS))])
def test_a_wrong_question_is_refused_with_its_place(desk: Desk, model: str, asked: Any, status: int, slug: str, pointer: str) -> None:
    answer = desk.http.post(f"/api/v1/models/{model}/predict", json=asked)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (status, f"/problems/{slug}"), problem
    if pointer:
        assert problem["errors"][0]["pointer"] == pointer, problem


def test_modes_that_a_model_does_not_have_are_unavailable(desk: Desk, model: str) -> None:
    wide = desk.run({**BASE, "name": "wide", "epochs": 1, "architecture": {"type": "mlp", "hidden": [32], "dropout": 0.5}})
    plain = desk.run({**BASE, "name": "plain", "epochs": 1})
    for ref, asked, place in (
        (wide["model"], {"mode": "exact"}, "/mode"),
        (wide["model"], {"dropout": "exact"}, "/dropout"),
        (plain["model"], {"mode": "ensemble"}, "/mode"),
        (plain["model"], {"mode": "weight_scaled"}, "/mode"),
        (plain["model"], {"mode": "monte_carlo"}, "/mode"),
        (plain["model"], {"members": 0, "dropout": "monte_carlo"}, "/dropout"),
    ):
        answer = desk.http.post(f"/api/v1/models/{ref}/predict", json={"inputs": [PIXELS], **asked})
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/mode-unavailable"), asked
        assert [error["pointer"] for error in answer.json()["errors"]] == [place]
    assert desk.predict(plain["model"], [PIXELS], members="all")["mode"] == "custom"


@pytest.mark.parametrize(
    ("change", "status", "slug", "pointer"),
    [
        ({"labels": ["7"] * 2}, 422, "shape-mismatch", "/labels"),
        ({"labels": ["eleven"]}, 422, "unknown-choice", "/labels/0"),
        ({"attack": {"type": "fgsm"}}, 422, "validation-error", "/attack/epsilon"),
        ({"attack": {"type": "carlini", "epsilon": 1.0}}, 422, "unknown-choice", "/attack/type"),
        ({"attack": {"type": "fgsm", "epsilon": -1.0}}, 422, "value-out-of-range", "/attack/epsilon"),
        ({"attack": {"type": "fgsm", "epsilon": 1.0, "norm": "l0"}}, 422, "unknown-choice", "/attack/norm"),
        ({"attack": {"type": "fgsm", "epsilon": 1.0, "target": "eleven"}}, 422, "unknown-choice", "/attack/target"),
        ({"attack": {"type": "fgsm", "epsilon": 1.0, "source": {"members": 7}}}, 422, "value-out-of-range", "/attack/source/members"),
        ({"attack": {"type": "fgsm", "epsilon": 1.0, "bounds": {"x": [0, 1]}}}, 422, "inconsistent-spec", "/attack/bounds/x"),
        ({"attack": {"type": "fgsm", "epsilon": 1.0, "bounds": {"image": [2, 1]}}}, 422, "value-out-of-range", "/attack/bounds/image"),
        ({"attack": {"type": "blur", "severity": 6}}, 422, "value-out-of-range", "/attack/severity"),
        ({"attack": {"type": "blur", "epsilon": 1.0}}, 422, "validation-error", ""),
        ({"attack": {"type": "pgd", "epsilon": 1.0, "steps": 10**6}}, 422, "value-out-of-range", "/attack/steps"),
        ({"attack": {"type": "fgsm", "epsilon": 1.0, "immutable": ["image"]}}, 422, "inconsistent-spec", "/attack/immutable"),
        ({"attack": {"type": "pgd", "epsilon": 1.0, "steps": 10_000, "restarts": 100}}, 413, "cost-limit", ""),
        ({"attack": {"type": "fab", "epsilon": 1.0, "steps": 9_999}}, 413, "cost-limit", ""),  # few rows, but one step after the other
    ],
)
def test_a_wrong_attack_is_refused_with_its_place(desk: Desk, model: str, change: Any, status: int, slug: str, pointer: str) -> None:
    body = {"inputs": [PIXELS], "labels": ["7"], "attack": {"type": "fgsm", "epsilon": 1.0}, **change}
    answer = desk.http.post(f"/api/v1/models/{model}/attack", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (status, f"/problems/{slug}"), problem
    if pointer:
        assert problem["errors"][0]["pointer"] == pointer, problem
    if status == 413:
        assert "robustness" in problem["detail"]


@pytest.mark.parametrize(
    ("change", "slug", "pointer"),
    [
        ({"model": "nobody"}, "not-found", "/model"),
        ({"attacks": [{"type": "fgsm", "epsilon": 1.0}]}, "unknown-field", "/attacks/0/epsilon"),
        ({"attacks": []}, "value-out-of-range", "/attacks"),
        ({"attacks": [{"type": "round"}]}, "unknown-choice", "/attacks/0/type"),
        ({"attacks": [{"type": "blur", "severity": 2}]}, "unknown-field", "/attacks/0/severity"),
        ({"attacks": [{"type": "fgsm", "target": "eleven"}]}, "unknown-choice", "/attacks/0/target"),
        ({"epsilons": [1, 0.5]}, "value-out-of-range", "/epsilons"),
        ({"epsilons": [-1.0]}, "value-out-of-range", "/epsilons/0"),
        ({"mode": "exact"}, "mode-unavailable", "/mode"),
        ({"weights": [1.0, 2.0]}, "shape-mismatch", "/weights"),
        ({"attacks": [{"type": "fgsm", "immutable": ["x"]}]}, "inconsistent-spec", "/attacks/0/immutable"),
    ],
)
def test_a_wrong_robustness_job_is_refused_with_its_place(desk: Desk, change: Any, slug: str, pointer: str) -> None:
    wide = {**BASE, "name": "widest", "epochs": 1, "architecture": {"type": "mlp", "hidden": [32], "dropout": 0.5}}
    if desk.http.get("/api/v1/models/widest").status_code == 404:
        desk.run(wide)
    spec = {"kind": "robustness", "model": "widest", "attacks": [{"type": "fgsm"}], "epsilons": [0, 1], **change}
    for path in ("/api/v1/jobs:validate", "/api/v1/jobs"):
        answer = desk.http.post(path, json=spec)
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (422, f"/problems/{slug}"), problem
        if pointer:
            assert problem["errors"][0]["pointer"] == pointer, problem


def test_a_robustness_job_without_a_right_row_still_ends(desk: Desk) -> None:
    desk.run({**BASE, "name": "hopeless", "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 1e-9}})
    job = desk.run({"kind": "robustness", "model": "hopeless", "attacks": [{"type": "pgd", "steps": 2}], "epsilons": [0, 1], "rows": 2})
    assert job["result"]["rows"] == 2


def test_batch_norm_takes_a_last_batch_of_one_row(desk: Desk) -> None:
    desk.run({**BASE, "architecture": {**MLP, "batch_norm": True}, "batch_size": 157, "epochs": 2})
