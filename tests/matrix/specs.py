"""Rows 51 to 78: jobs that say what cannot be. A field or a choice that this release does not have is `unknown-choice`."""

from typing import Any

from tests.matrix.table import CHECK, MLP, Row, posted, spec

RANGE, COST, CHOICE, CLASH = "value-out-of-range", "cost-limit", "unknown-choice", "inconsistent-spec"
HIDDEN, DROPOUT = "/architecture/hidden", "/architecture/dropout"


def net(**change: Any) -> dict[str, Any]:
    return {"architecture": {**MLP, **change}}


def penalty(**change: Any) -> dict[str, Any]:
    return {"regularizers": [{"type": "l2", "alpha": 0.1, **change}]}


def target(**change: Any) -> dict[str, Any]:
    return {"targets": [{"name": "label", **change}]}


def attack(**change: Any) -> dict[str, Any]:
    """A robustness job; what is left of a training job is taken out by the row."""
    fields = {"attacks": [{"type": "pgd"}], "epsilons": [0, 1]}
    return {"kind": "robustness", "model": "{plain}", **fields, **change}


def robustness(number: int, change: dict[str, Any], slug: str, pointer: str) -> Row:
    def send(bench: Any) -> Any:
        return bench.ask("POST", CHECK, json=attack(**{"model": bench.refs["plain"], **change}))

    return Row(number, str(change)[:60], send, 422, slug, pointer)


TIED = {
    "targets": [{"name": "input", "task": "reconstruction"}],
    "architecture": {"type": "autoencoder", "hidden": [16], "code": 4, "tied": True},
}


def told(number: int, what: str, body: str, slug: str) -> Row:
    """A spec with a literal that no JSON writer writes."""
    return Row(number, what, posted(CHECK, body.encode()), 400, slug)


SIZES = [
    spec(51, net(hidden=[0]), RANGE, f"{HIDDEN}/0"),
    spec(51, net(hidden=[8, -1]), RANGE, f"{HIDDEN}/1"),
    spec(51, net(hidden=[10**9]), COST, "/architecture"),
    spec(51, net(hidden=[10**18]), COST, "/architecture"),
    spec(52, net(hidden=[]), None),  # a linear model
    spec(52, net(hidden=[8] * 10_000), RANGE, HIDDEN),
    *(spec(53, change, CHOICE, pointer) for change, pointer in (
        ({"architecture": {"type": "unet"}}, "/architecture/type"), (net(activation="swish"), "/architecture/activation"),
        ({"optimizer": {"type": "lion"}}, "/optimizer/type"), ({"regularizers": [{"type": "l7"}]}, "/regularizers/0/type"))),
    Row(53, "lists what there is", spec(53, {"optimizer": {"type": "lion"}}, CHOICE).send, 422, CHOICE,
        also=lambda answer: "'adam'" in answer.json["detail"]),
    *(spec(54, net(dropout=rate), RANGE, DROPOUT) for rate in (-0.1, 1, 1.5)),
    *(spec(54, net(dropout={part: rate}), RANGE, f"{DROPOUT}/{part}") for part in ("input", "hidden") for rate in (-1e-9, 1)),
    told(54, "NaN", '{"architecture": {"type": "mlp", "hidden": [8], "dropout": NaN}}', "malformed-json"),
    spec(55, net(hidden=[8, 8], dropout={"hidden": [0.1]}), CLASH, f"{DROPOUT}/hidden"),
    spec(55, net(dropout={"hidden": [[0.1] * 3]}), CLASH, f"{DROPOUT}/hidden/0"),
    spec(55, net(hidden=[8, 2], dropout={"hidden": [0.1, [0.1] * 3]}), CLASH, f"{DROPOUT}/hidden/1"),
    spec(54, net(hidden=[2], dropout={"hidden": [[0.1, 1]]}), RANGE, f"{DROPOUT}/hidden/0/1"),
    *(spec(56, penalty(type=kind, alpha=-1), RANGE, "/regularizers/0/alpha") for kind in ("l1", "l2")),
    *(spec(56, penalty(type=kind, alpha=1e30), RANGE, "/regularizers/0/alpha") for kind in ("l1", "l2")),
    *(spec(56, {"regularizers": [{"type": "l0", "alpha": alpha}]}, RANGE, "/regularizers/0/alpha") for alpha in (-1, 1e30)),
    *(spec(56, {"regularizers": [{"type": "l0", "method": "projection", "keep": k}]}, RANGE, "/regularizers/0/keep") for k in (0, 1.5)),
    spec(57, {"regularizers": [{"type": "l0", "alpha": 1, "layers": ["hidden.0"]}]}, None),
    spec(57, TIED | {"regularizers": [{"type": "l0", "alpha": 1, "layers": ["encoder.0"]}]}, CLASH, "/regularizers/0"),
    spec(57, {"regularizers": [{"type": "l0", "method": "projection", "keep": 10**6}]}, CLASH, "/regularizers/0/keep"),
]  # fmt: skip
TRAINING = [
    *(spec(58, {"optimizer": {"type": kind, "learning_rate": rate}}, RANGE, "/optimizer/learning_rate")
      for kind in ("sgd", "adam", "adamw") for rate in (0, -1, 1e9)),
    *(spec(59, {"epochs": epochs}, RANGE, "/epochs") for epochs in (0, -1, 10**9)),
    *(spec(60, {"batch_size": size}, RANGE, "/batch_size") for size in (0, -1, 1258, 10**9, "half")),
    spec(60, {"batch_size": 1257}, None),  # all training rows
    *(spec(61, {"early_stopping": {"patience": epochs}}, RANGE, "/early_stopping/patience") for epochs in (0, -1)),
    spec(61, {"epochs": 5, "early_stopping": {"patience": 6}}, None,
         also=lambda answer: answer.json["warnings"][0]["code"] == "patience-beyond-epochs"),
    *(spec(62, {"early_stopping": {"patience": 3}, "split": split}, CLASH, "/early_stopping")
      for split in ({"test": 0.2}, {"validation": 0})),
    spec(63, {"split": {"validation": 0}}, None, also=lambda answer: answer.json["spec"]["early_stopping"] is None),
    *(spec(63, {"split": {"validation": share}}, RANGE, "/split/validation") for share in (1, 2, -0.1)),
    told(63, "NaN", '{"dataset": "digits", "split": {"validation": NaN}}', "malformed-json"),
    spec(63, {"split": {"validation": 0.999, "test": 0.999}}, CLASH, "/split"),
    *(spec(64, {"ensemble": {"size": size}}, RANGE, "/ensemble/size") for size in (0, -1)),
    *(spec(64, {"ensemble": {"size": size}}, COST, "/ensemble/size") for size in (201, 10**6)),
    *(spec(65, {"ensemble": {"size": 2, "fraction": share}}, RANGE, "/ensemble/fraction") for share in (0, -0.5, 1.01)),
]  # fmt: skip
HEADS = [
    spec(66, {"targets": []}, RANGE, "/targets"),
    spec(66, {"targets": [{"name": "label"}, {"name": "label"}]}, CLASH, "/targets/1/name"),
    spec(66, target(task="regression"), CLASH, "/targets/0/task"),
    spec(66, target(loss="mse"), CHOICE, "/targets/0/loss"),
    spec(66, target(task="divination"), CHOICE, "/targets/0/task"),
    spec(67, {"regularizers": [{"type": "tie", "between": ["hidden.0", "hidden.7"], "alpha": 1}]}, CLASH, "/regularizers/0/between/1"),
    spec(67, {"regularizers": [{"type": "tie", "between": ["hidden.0", "head.label"], "alpha": 1}]}, CLASH, "/regularizers/0/between"),
    spec(67, {"regularizers": [{"type": "share", "layers": ["hidden.0", "hidden.0"]}]}, CLASH, "/regularizers/0/layers"),
    spec(67, penalty(layers=["hidden.7"]), CLASH, "/regularizers/0/layers/0"),
    spec(68, {"dataset": "diabetes", "augmentation": [{"type": "flip", "axis": "horizontal"}]}, CLASH, "/augmentation/0/type"),
    spec(68, {"augmentation": [{"type": "gaussian_noise", "std": -1}]}, RANGE, "/augmentation/0/std"),
    spec(
        69,
        {"architecture": {"type": "conv_autoencoder", "channels": [4] * 5, "upsampling": "unpooling"}},
        CLASH,
        "/architecture/channels/3",
    ),
    spec(69, {"architecture": {"type": "cnn", "channels": [4], "kernel": 99}}, RANGE, "/architecture/kernel"),
    spec(69, {"architecture": {"type": "cnn", "channels": [4] * 5}}, CLASH, "/architecture/channels/3"),
    spec(69, {"architecture": {"type": "cnn", "channels": []}}, RANGE, "/architecture/channels"),
    spec(69, {"dataset": "diabetes", "architecture": {"type": "cnn", "channels": [4]}}, CLASH, "/architecture/type"),
    spec(69, {"architecture": {"type": "recurrent"}}, CLASH, "/architecture/type"),
    spec(70, {"architecture": {"type": "resnet", "depth": 21}}, CLASH, "/architecture/depth"),
    spec(69, {"architecture": {"code": 4}}, "validation-error", "/architecture/type"),
    spec(69, {"architecture": {"type": "autoencoder"}}, "validation-error", "/architecture/code"),
    spec(69, {"architecture": {"type": "autoencoder", "code": 4}, "targets": [{"name": "label"}]}, CLASH, "/targets"),
    spec(69, {"targets": [{"name": "input", "task": "reconstruction"}]}, CLASH, "/targets/0/task"),
    spec(
        69,
        {"architecture": {"type": "autoencoder", "code": 4}},
        None,
        also=lambda answer: answer.json["spec"]["targets"][0]["task"] == "reconstruction",
    ),
    spec(70, net(hidden=[8, 4, 4], residual=True), CLASH, HIDDEN),
    spec(70, net(hidden=[8, 8], residual=True), CLASH, HIDDEN),
]
OTHERS = [
    robustness(71, {"epsilons": [-1]}, RANGE, "/epsilons/0"),
    robustness(71, {"attacks": [{"type": "pgd", "steps": 10**6}]}, RANGE, "/attacks/0/steps"),
    robustness(71, {"attacks": [{"type": "pgd", "norm": "l7"}]}, CHOICE, "/attacks/0/norm"),
    spec(71, {"adversarial_training": {"method": "fgsm", "epsilon": -1}}, RANGE, "/adversarial_training/epsilon"),
    spec(71, {"adversarial_training": {"method": "fgsm", "epsilon": 1, "norm": "l7"}}, CHOICE, "/adversarial_training/norm"),
    *(spec(73, {"seed": seed}, RANGE, "/seed") for seed in (-1, 2**63, 2**64)),
    spec(73, {"seed": 2**63 - 1}, None),
    *(spec(74, {"name": name}, "invalid-name", "/name") for name in (
        "../etc", "..", "a/b", "a\n", "a\nb", "\u202eab", "a" * 65, "a" * 10_240, "A", "", "job_1", "é", "a b", ".a")),
    spec(75, {"labels": {str(n): "x" * 1000 for n in range(17)}}, RANGE, "/labels"),
    spec(75, {"labels": {str(n): "x" for n in range(33)}}, RANGE, "/labels"),
    spec(75, {"labels": {"a": 1}}, "validation-error", "/labels/a"),
    spec(76, {"device": "cuda:7"}, "device-unavailable", "/device"),
    spec(76, {"device": "tpu"}, CHOICE, "/device"),
    spec(78, {"init": {"model": "plain"}}, None),
    spec(78, {"init": {"model": "plain"}, **net(hidden=[5])}, CLASH, "/init/model"),
    spec(78, {"init": {"model": "nobody"}}, "not-found", "/init/model"),
]  # fmt: skip
ROWS = [
    *SIZES, *TRAINING, *HEADS, *OTHERS,
    spec(54, {}, None, also=lambda answer: answer.json["spec"]["dataset"] == "digits"),  # as it is, it is valid
]  # fmt: skip
