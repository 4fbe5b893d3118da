"""Members side by side in one network, or one after the other: the same answers, and which is chosen."""

import threading
from typing import Any

import pytest
import torch

from service.inference import asking
from service.inference import model as models
from service.inference.asking import ask
from service.inference.deployed import Deployed, DeployedNumbers
from service.inference.model import Model
from service.nets.network import Network
from service.tricks.attacks import gradient
from service.tricks.modes import Asking

NUMBER = {"task": "regression", "name": "size"}
GAUSSIAN = {"task": "regression", "name": "size", "loss": "gaussian_nll"}
CLASS = {"task": "classification", "name": "kind"}
NETS: dict[str, dict[str, Any]] = {
    "linear": {"hidden": []},
    "deep": {"hidden": [6, 5], "activation": "tanh"},
    "normalized": {"hidden": [6, 5], "batch_norm": True},
    "residual": {"hidden": [5, 5, 5], "residual": True, "bias": False},
    "dropped": {"hidden": [6], "dropout": {"input": 0.2, "hidden": 0.5}},
    "scaled": {"hidden": [6], "logit_scale": 3.0},
}
ALL = Asking(members="all")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """The networks that were asked."""
    asked: list[Network] = []
    plain = Network.distributions

    def heard(self: Network, *arguments: Any) -> Any:
        asked.append(self)
        return plain(self, *arguments)

    monkeypatch.setattr(Network, "distributions", heard)
    return asked


@pytest.mark.parametrize("precise", [False, True], ids=["float", "double"])
@pytest.mark.parametrize("targets", [(CLASS,), (NUMBER,), (GAUSSIAN,), (CLASS, GAUSSIAN)], ids=["classes", "numbers", "gaussian", "both"])
@pytest.mark.parametrize("name", NETS)
def test_layouts_agree(bench: Any, passes: list[Network], name: str, targets: Any, precise: bool) -> None:
    """Rounding is relative to the largest number on the way, and a mean of targets is 5."""
    model, x = bench.model(*targets, size=4, **NETS[name]), bench.inputs(9)
    model, tolerance = (bench.double(model), 1e-12) if precise else (model, 1e-6)
    for weights in ("model", [1.0, 0.0, 2.0, 5.0]):
        axes = Asking.model_validate({"members": "all", "weights": weights}).axes(model)
        passes.clear()
        together = ask(model, x, axes, keep=True)
        assert [network.members for network in passes] == [4]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asking, "STACK_WORK", 0)
            alone = ask(model, x, axes, keep=True)
        assert passes[1:] == list(model.networks)
        for target in targets:
            one, other = together[target["name"]], alone[target["name"]]
            fields = ("probabilities", "logits", "total", "aleatoric") if target == CLASS else ("mean", "aleatoric")
            for field in fields:
                if getattr(one, field) is not None:
                    torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=tolerance, atol=7 * tolerance)
            said, apart = (answer.members if target == CLASS else answer.members.mean for answer in (one, other))
            torch.testing.assert_close(said, apart, rtol=tolerance, atol=7 * tolerance)


def test_images_lie_side_by_side(bench: Any, passes: list[Network]) -> None:
    model, x = bench.model(encoding=bench.encoding(shape=(2, 2)), hidden=[5], size=3), bench.inputs(7).view(7, 2, 2)
    each = torch.stack([bench.said(model, x, members=i).probabilities for i in range(3)])
    passes.clear()
    torch.testing.assert_close(bench.said(model, x).probabilities, each.mean(0), rtol=1e-6, atol=1e-6)
    assert [network.members for network in passes] == [3]


def test_some_of_the_members_are_asked_by_themselves(bench: Any, passes: list[Network]) -> None:
    model, x = bench.double(bench.model(hidden=[5], size=3)), bench.inputs()
    axes = ALL.axes(model)._replace(members=(2, 0))
    found = ask(model, x, axes)["kind"].probabilities
    assert passes == [model.networks[2], model.networks[0]]
    each = [bench.said(model, x, members=i).probabilities for i in (2, 0)]
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "most"), [("STACK_WORK", 10 * 43), ("CHUNK_ENTRIES", 10 * 3 * 10)], ids=["work", "memory"])
def test_much_work_is_done_one_by_one(bench: Any, passes: list[Network], monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    """43 parameters and 9 units, and one, of each of three members, and ten rows."""
    model, x = bench.model(hidden=[5], size=3), bench.inputs(10)
    assert model.parameters == 43
    for limit, asked in ((most, 1), (most - 1, 3)):
        monkeypatch.setattr(asking, name, limit)
        passes.clear()
        bench.said(model, x)
        assert len(passes) == asked


@pytest.mark.parametrize("why", ["memory", "layers"])
def test_what_cannot_be_stacked_is_asked_one_by_one(bench: Any, passes: list[Network], monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "memory":
        monkeypatch.setattr(models, "STACK_PARAMETERS", 3 * 43 - 1)
    else:
        monkeypatch.setattr(models, "stackable", lambda network: False)
    model = bench.model(hidden=[5], size=3)
    bench.said(model, bench.inputs())
    assert passes == list(model.networks)


def test_a_form_is_made_once_for_all_threads(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, made = bench.model(hidden=[5], size=3), models.stack, []
    barrier, found = threading.Barrier(8), []

    def counted(networks: Any) -> Network:
        made.append(networks)
        return plain(networks)

    def work() -> None:
        barrier.wait()
        found.append(model.stacked())

    monkeypatch.setattr(models, "stack", counted)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(each is found[0] for each in found)
    assert len(found) == 8
    assert Model(model.spec, model.encoding, model.classes, model.networks[:2], 0).stacked().members == 2, "another model has its own"


def test_a_stack_takes_no_gradients_and_is_not_in_training(bench: Any) -> None:
    whole = bench.model(hidden=[5], size=3, batch_norm=True).stacked()
    assert not any(parameter.requires_grad for parameter in whole.parameters())
    assert not any(module.training for module in whole.modules())


@pytest.mark.parametrize("target", [CLASS, NUMBER], ids=["classes", "numbers"])
def test_attacks_go_through_the_stack(bench: Any, passes: list[Network], monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    """Also where a prediction, which knows of no gradients, was the first to make it."""
    model, x = bench.double(bench.model(target, hidden=[5], size=3)), bench.inputs().double()
    ask(model, x, ALL.axes(model))
    labels = torch.arange(12) % 3
    loss = (
        Deployed(model, ALL.axes(model), "kind", labels)
        if target == CLASS
        else DeployedNumbers(model, ALL.axes(model), "size", labels.unsqueeze(1).double())
    )
    passes.clear()
    together = gradient(x, loss)
    assert [network.members for network in passes] == [3]
    monkeypatch.setattr(asking, "STACK_WORK", 0)
    torch.testing.assert_close(together, gradient(x, loss), rtol=1e-9, atol=1e-14)
    assert bool((together != 0).any())
