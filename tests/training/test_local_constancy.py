"""How little answers change around rows, before training and after it: the report of adversarial training."""

from typing import Any

import pytest
import torch

from service.inference.measuring import Inquiry
from service.inference.model import Model, serving
from service.inference.report_adversarial import adversarial_training, shown
from service.tricks.norms import NORMS
from workers.training.run import start

CPU = torch.device("cpu")
NET: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [16]}, "epochs": 6}
SUMMARY = {"member": 0, "rolled_back": []}


def reported(bench: Any, dataset: str, training: dict[str, Any] | None, **fields: Any) -> Any:
    made = bench.material(dataset, **{**NET, **fields}, adversarial_training=training)
    return adversarial_training(Inquiry(bench.model(made, bench.train(made)), made), [SUMMARY])


def test_without_adversarial_training_there_is_nothing_to_say(bench: Any) -> None:
    assert reported(bench, "digits", None, epochs=1) is None
    assert shown(None) == ""


@pytest.mark.parametrize("norm", NORMS)
def test_around_a_linear_model_it_is_the_dual_norm_of_its_weights(bench: Any, norm: str) -> None:
    """The worst change of w'x + b is epsilon times the dual norm of w, everywhere; of means the divergence is half its square."""
    epsilon = 0.7
    linear = {"architecture": {"type": "mlp", "hidden": []}}
    made = bench.material("diabetes", **{**NET, **linear}, adversarial_training={"method": "fgsm", "epsilon": epsilon, "norm": norm})
    model = bench.model(made, bench.train(made))
    found = adversarial_training(Inquiry(model, made), [SUMMARY])
    for time, network in (("before", start(made, (0,), CPU).network), ("after", model.networks[0])):
        weights = network.heads[0].weight.detach()[0] / network.preprocess.scale
        dual = float({"linf": weights.abs().sum(), "l2": weights.norm(), "l1": weights.abs().max()}[norm])
        for part in ("train", "test"):
            worst = found["local_constancy"][time][part]["adversarial"]
            std = float(network.units[0].std)
            # Ten steps reach a corner of a box, and come near the farthest point of a sphere.
            near = 1e-3 if norm == "linf" else 0.05
            assert (1 - near) * epsilon * dual * std <= worst["change"] <= epsilon * dual * std * (1 + 1e-4)
            assert (1 - 2 * near) * 0.5 * (epsilon * dual) ** 2 <= worst["kl"] <= 0.5 * (epsilon * dual) ** 2 * (1 + 1e-3)
            random = found["local_constancy"][time][part]["random"]
            assert 0 < random["change"] < worst["change"]


def test_before_training_it_is_of_the_weights_that_training_began_with(bench: Any) -> None:
    """A network that never took a step changes as much after as before."""
    fields = {"ensemble": {"size": 3}, "seed": 5}
    made = bench.material("digits", **NET, **fields, adversarial_training={"method": "trades", "epsilon": 1.0})
    begun = [serving(start(made, (member,), CPU).network) for member in (0, 2)]
    model = Model(made.spec, made.encoding, made.classes, tuple(begun), 1, (0, 2))
    found = adversarial_training(Inquiry(model, made), [{"member": 0}, {"member": 2}])
    assert found["local_constancy"]["before"] == found["local_constancy"]["after"]
    assert found["rolled_back"] == []
    other = adversarial_training(
        Inquiry(Model(made.spec, made.encoding, made.classes, tuple(begun), 0, (0, 2)), made), [SUMMARY, {"member": 2}]
    )
    assert other["local_constancy"]["before"] != found["local_constancy"]["before"]


def test_training_for_it_makes_answers_change_less(bench: Any) -> None:
    plain = reported(bench, "digits", {"method": "fgsm", "epsilon": 1.5, "weight": 0.0}, epochs=12)["local_constancy"]
    for training in ({"method": "vat", "weight": 4.0}, {"method": "trades", "steps": 3}, {"method": "pgd", "steps": 3}):
        found = reported(bench, "digits", {"epsilon": 1.5, **training}, epochs=12)["local_constancy"]
        assert found["before"] == plain["before"]
        for part in ("train", "test"):
            assert found["after"][part]["adversarial"]["kl"] < 0.7 * plain["after"][part]["adversarial"]["kl"]
            assert found["after"][part]["random"]["kl"] < found["after"][part]["adversarial"]["kl"]


def test_noise_is_looked_at_in_the_box_of_its_standard_deviation(bench: Any) -> None:
    noise = reported(bench, "digits", {"method": "noise", "std": 1.0, "weight": 0.0}, epochs=1)
    box = reported(bench, "digits", {"method": "fgsm", "epsilon": 1.0, "weight": 0.0}, epochs=1)
    assert noise["local_constancy"] == box["local_constancy"]


def test_categories_stay_where_they_are(bench: Any) -> None:
    """All columns but one are categories: around a row only that one moves."""
    name = bench.table(
        "mostly",
        {
            "kind": ["a", "b", "c", "a"] * 30,
            "sure": [i % 2 for i in range(120)],
            "size": [f"{(i * 37 % 100) / 50:.3f}" for i in range(120)],
            "y": [i * 37 % 100 > 50 for i in range(120)],
        },
        targets=["y"],
        fields={"sure": {"kind": "categorical"}},
    )
    made = bench.material(
        name, architecture={"type": "mlp", "hidden": []}, epochs=3, adversarial_training={"method": "fgsm", "epsilon": 0.5}
    )
    model = bench.model(made, bench.train(made))
    weight = model.networks[0].heads[0].weight
    moving = made.encoding.shape[0] - made.encoding.plain
    assert moving == 1
    with torch.no_grad():
        weight[:, :moving] = 0.0  # what moves has no weight, and so nothing changes
    worst = adversarial_training(Inquiry(model, made), [SUMMARY])["local_constancy"]["after"]["test"]["adversarial"]
    assert worst == {"kl": 0.0, "change": 0.0}


def test_the_page_shows_both_times_and_every_roll_back() -> None:
    around = {"rows": 9, "random": {"kl": 0.011, "change": 0.012}, "adversarial": {"kl": 0.013, "change": 0.014}}
    far = {"rows": 9, "random": {"kl": 0.021, "change": 0.022}, "adversarial": {"kl": 0.023, "change": 0.024}}
    back = {"member": 3, "epoch": 17, "to": 16, "fgsm": 0.91, "pgd": 0.07, "pgd_before": 0.42, "share": 0.5}
    page = shown({"method": "fast", "local_constancy": {"before": {"test": far}, "after": {"test": around}}, "rolled_back": [back]})
    for word in ("0.0110", "0.0120", "0.0130", "0.0140", "0.0210", "0.0220", "0.0230", "0.0240", "0.9100", "0.0700", "0.4200", "17", "16"):
        assert f">{word}<" in page
