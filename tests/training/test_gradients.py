"""Norms of gradients against autograd on networks written out, and the moments that a run keeps of them."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.inference.report_gradients import gradients
from service.storage.files import Folder
from tests.nets.test_recurrent import unrolled
from tests.training.test_resume import on
from workers.training.gradients import EARLY, moments, over_training
from workers.training.run import start
from workers.training.summaries import summarize, with_gradients
from workers.training.task import Task

CPU = torch.device("cpu")
FEW = {"batch_size": 110, "epochs": 3}
"""12 steps an epoch."""


def waves(bench: Any, **fields: Any) -> Any:
    stream = np.random.default_rng(0)
    x = stream.normal(size=(300, 7, 3)).astype(np.float32)
    return bench.material(bench.arrays("waves-of-seven", x=x, y=np.where(x[:, 0, 0] > 0, "up", "down")), **fields)


def rows_of(material: Any) -> tuple[Tensor, Tensor]:
    """The normalized rows that norms are of, and their classes."""
    train = material.parts.train
    rows = train[np.linspace(0, len(train) - 1, int(material.spec.batch_size)).astype(int)]
    x, labels = material.rows(rows)
    return material.preprocess(x).double(), labels[material.targets[0].name]


def norm(slopes: Any) -> float:
    return float(torch.cat([slope.flatten() for slope in slopes]).norm())


def test_norms_are_those_of_a_network_written_out(bench: Any) -> None:
    """Batch norm as in training, no dropout, no penalty."""
    net = {"type": "mlp", "hidden": [9, 7], "batch_norm": True, "activation": "tanh", "dropout": 0.5}
    material = bench.material("digits", architecture=net, regularizers=[{"type": "l2", "alpha": 1.0}], **FEW)
    network = material.initial(0)
    (found,) = moments(material, network, 3)
    x, labels = rows_of(material)
    own = {name: parameter.detach().double().requires_grad_(True) for name, parameter in network.named_parameters()}
    h = x.flatten(1)
    for i in (0, 1):
        z = h @ own[f"trunk.hidden.{i}.linear.weight"].T + own[f"trunk.hidden.{i}.linear.bias"]
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
        h = torch.tanh(z * own[f"trunk.hidden.{i}.norm.weight"] + own[f"trunk.hidden.{i}.norm.bias"])
    F.cross_entropy(h @ own["heads.0.weight"].T + own["heads.0.bias"], labels).backward()
    expected = {
        layer: norm(parameter.grad for name, parameter in own.items() if name.startswith(place))
        for layer, place in {"hidden.0": "trunk.hidden.0.", "hidden.1": "trunk.hidden.1.", "head.label": "heads.0."}.items()
    }
    assert found == {"step": 3, "layers": pytest.approx(expected, rel=1e-4), "over_time": {}, "time_steps": []}


def test_the_norm_of_a_layer_that_is_used_again_is_of_the_sum_over_its_uses(bench: Any) -> None:
    linear, tanh = {"type": "linear", "width": 7}, {"type": "activation", "function": "tanh"}
    layers = [{"type": "flatten"}, linear, tanh, linear, tanh, {"type": "share", "as": "linear.1"}]
    material = bench.material("digits", architecture={"type": "layers", "layers": layers}, **FEW)
    network = material.initial(0)
    (found,) = moments(material, network, 3)
    x, labels = rows_of(material)
    parts = [*(network.trunk.steps[name].linear for name in ("linear.0", "linear.1")), network.heads[0]]
    own = [[tensor.detach().double().requires_grad_(True) for tensor in (part.weight, part.bias)] for part in parts]
    first, again, head = own
    h = torch.tanh(F.linear(torch.tanh(F.linear(x.flatten(1), *first)), *again))
    F.cross_entropy(F.linear(F.linear(h, *again), *head), labels).backward()
    expected = {name: norm(tensor.grad for tensor in pair) for name, pair in zip(("linear.0", "linear.1", "head.label"), own, strict=True)}
    assert found["layers"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_norms_over_time_are_those_of_an_unrolled_network(bench: Any, cell: str) -> None:
    """By what each layer reads at a step, the norms of rows' own losses, their mean; and as differences have it."""
    material = waves(bench, architecture={"type": "recurrent", "cell": cell, "hidden": [5, 4]}, batch_size=20)
    network = material.initial(0)
    (found,) = moments(material, network, 0)
    x, labels = rows_of(material)
    exact = material.initial(0).double()
    first, second = (layer.cells for layer in exact.trunk.hidden)
    reads = [x.clone().requires_grad_(True), unrolled(cell, first, x).detach().requires_grad_(True)]

    def losses(sequences: Tensor) -> Tensor:
        return F.cross_entropy(exact.heads[0](unrolled(cell, second, sequences)[:, -1]), labels, reduction="none")

    slopes = [
        torch.autograd.grad(losses(unrolled(cell, first, reads[0])).sum(), reads[0])[0],
        torch.autograd.grad(losses(reads[1]).sum(), reads[1])[0],
    ]
    for name, slope in zip(("hidden.0", "hidden.1"), slopes, strict=True):
        assert found["over_time"][name] == pytest.approx(slope.norm(dim=-1).mean(0).tolist(), rel=1e-4)
    step = torch.zeros_like(x)
    step[4, 2, 1] = 1e-5
    with torch.no_grad():
        difference = (losses(unrolled(cell, first, x + step)) - losses(unrolled(cell, first, x - step))).sum() / 2e-5
    assert float(slopes[0][4, 2, 1]) == pytest.approx(float(difference), rel=1e-5)


STACKED: dict[str, dict[str, Any]] = {
    "batch norm": {"architecture": {"type": "mlp", "hidden": [9, 7], "batch_norm": True, "dropout": 0.3}},
    "gates and sharing": {
        "architecture": {"type": "mlp", "hidden": [8, 8, 8]},
        "regularizers": [{"type": "l0", "alpha": 0.01, "layers": ["hidden.0"]}, {"type": "share", "layers": ["hidden.1", "hidden.2"]}],
    },
    "tied reconstruction": {
        "architecture": {"type": "autoencoder", "hidden": [9], "code": 4, "tied": True},
        "targets": [{"name": "input", "weight": "learned"}, {"name": "label", "weight": "learned"}],
    },
}


@pytest.mark.parametrize("name", STACKED)
def test_members_side_by_side_have_the_norms_that_each_has_alone(bench: Any, name: str) -> None:
    material = bench.material("digits", ensemble={"size": 3}, **STACKED[name], **FEW)
    together = start(material, (0, 1, 2), CPU, stacked=True)
    for _, _ in zip(range(5), on(together, Task(material, together, CPU)), strict=False):
        pass
    side_by_side = moments(material, together.network, 5)
    for place in range(3):
        alone = start(material, (place,), CPU)
        alone.network.load(together.learned(place))
        (own,) = moments(material, alone.network, 5)
        assert side_by_side[place]["layers"] == pytest.approx(own["layers"], rel=1e-4)


@pytest.mark.parametrize("name", [*STACKED, "convolutional"])
def test_a_run_does_not_notice(bench: Any, name: str) -> None:
    """Weights, running statistics, gates, gradients and the mode are those from before, bit by bit."""
    fields = {"architecture": {"type": "resnet", "depth": 8, "width": 2}} if name == "convolutional" else STACKED[name]
    material = bench.material("digits", **fields, **FEW)
    looked, left = start(material, (0,), CPU), start(material, (0,), CPU)
    for run in (looked, left):
        for _, _ in zip(range(4), on(run, Task(material, run, CPU)), strict=False):
            pass
    state = torch.get_rng_state()
    moments(material, looked.network, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in looked.network.parameters())
    assert [module.training for module in looked.network.modules()] == [module.training for module in left.network.modules()]
    assert bench.freeze(looked) == bench.freeze(left)


def test_early_is_the_end_of_the_first_epoch_with_enough_steps(bench: Any) -> None:
    """Five steps an epoch, so the second one; an interruption right after it, or before, makes no difference."""
    material = bench.material("digits", batch_size=270, epochs=4)
    straight = start(material, (0,), CPU)
    records = on(straight, Task(material, straight, CPU))
    frozen = [bench.freeze(straight) for record in records if record is not None and straight.reason is None]
    assert len(Task(material, straight, CPU).batches) == EARLY // 2
    assert straight.only.early is not None
    assert straight.only.early["step"] == 10
    for at in (0, 1, 2):
        run = bench.thaw(material, 0, frozen[at])
        assert (run.only.early is None) == (at == 0)
        list(on(run, Task(material, run, CPU)))
        assert run.only.early == straight.only.early


def test_a_frozen_layer_has_none_and_a_short_training_no_early_one(bench: Any) -> None:
    material = bench.material("digits", architecture={"type": "mlp", "hidden": [6]}, batch_size=500, epochs=2)
    trained = bench.train(material)
    found = over_training(material, trained.run.only, CPU)
    assert found["early"] is None
    assert found["first"]["step"] == 0
    assert found["best"]["step"] == trained.run.only.patience.step
    network = material.initial(0)
    network.layers()["hidden.0"].requires_grad_(False)
    (own,) = moments(material, network, 0)
    assert own["layers"]["hidden.0"] is None
    assert own["layers"]["head.label"] == pytest.approx(found["first"]["layers"]["head.label"])


def test_a_summary_has_the_moments_and_the_report_their_means(bench: Any, tmp_path: Any) -> None:
    material = waves(bench, architecture={"type": "recurrent", "hidden": [4]}, batch_size=20, epochs=2, ensemble={"size": 2})
    runs = [bench.train(material, member).run for member in (0, 1)]
    store = Folder(tmp_path)
    told = [with_gradients(summarize(run.only, run, material, store, "jobs/x"), store) for run in runs]
    found = gradients(told)
    assert found is not None
    assert found["time_steps"] == [1, 2, 3, 4, 5, 6, 7]
    assert found["steps"] == {"first": 0, "early": 11, "best": np.mean([run.only.patience.step for run in runs])}
    for moment in ("first", "early", "best"):
        own = [summary["gradients"][moment] for summary in told]
        assert found["layers"]["hidden.0"][moment] == pytest.approx(np.mean([each["layers"]["hidden.0"] for each in own]))
        expected = np.mean([each["over_time"]["hidden.0"] for each in own], axis=0)
        assert found["over_time"]["hidden.0"][moment] == pytest.approx(expected.tolist())
    told[1] = with_gradients({"member": 1}, store)  # an older release's
    assert gradients(told)["steps"]["best"] == runs[0].only.patience.step
    assert gradients([{}]) is None
