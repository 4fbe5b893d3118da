"""L0 in training: gradients of gates, what is published without them, and projections at every step."""

import json
from typing import Any

import pytest
import torch

from service.inference.asking import ask
from service.inference.model import rebuild
from service.nets.gates import Gated
from service.nets.network import Network, weights_of
from service.nets.pruning import pruned
from service.storage.files import Folder
from service.tricks.modes import Asking
from service.tricks.sparsity import BETA, GAMMA, ZETA, chances, deterministic
from workers.training.checkpointing import pack, unpack
from workers.training.loop import train
from workers.training.publishing import gather
from workers.training.run import build, start
from workers.training.steps import objective
from workers.training.task import Task

CPU = torch.device("cpu")
NET = {"type": "mlp", "hidden": [16, 12]}
GATES = {"architecture": NET, "regularizers": [{"type": "l0", "alpha": 0.01}], "batch_size": 220, "epochs": 3}

# A gate is closed below log_alpha = -2.4: from 0 that is far at Adam's usual rate.
FAST = {"optimizer": {"type": "adam", "learning_rate": 0.05}}


def gated(network: Network) -> list[Gated]:
    return [module for module in network.modules() if isinstance(module, Gated)]


@pytest.mark.parametrize("architecture", [NET, {**NET, "batch_norm": True}])
def test_the_gradient_of_gates_is_that_of_autograd(bench: Any, architecture: Any) -> None:
    """Through z = clip(sigmoid((logit(u) + log_alpha) / beta) (zeta - gamma) + gamma) and the price, for the same u."""
    made = bench.material("digits", **{**GATES, "architecture": architecture})
    run = start(made, (0,), CPU)
    task = Task(made, run, CPU)
    batch = next(task.batches.walk(task.batches.order(run.streams("order")), 0))
    run.network.train()
    state = run.only.streams["gates"].get_state()
    task.gating.draw(run.streams("gates"))
    objective(run.network, task, batch.x, batch.labels).backward()
    with torch.no_grad():
        task.gating.add_gradients()
    layers = gated(run.network)
    found = [parameter.grad.clone() for layer in layers for parameter in (layer.log_alpha, layer.weight)]
    assert layers[0].folded.grad is None, "the next step's is not added to it"

    u = torch.rand(sum(layer.in_features for layer in layers), generator=torch.Generator().set_state(state))
    logits = [layer.log_alpha.detach().clone().requires_grad_() for layer in layers]
    for layer, own, part in zip(layers, logits, u.split([layer.in_features for layer in layers]), strict=True):
        layer.folded = layer.weight * (((torch.logit(part, 1e-6) + own) / BETA).sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
    loss = objective(run.network, task, batch.x, batch.labels) + 0.01 * sum(chances(own).sum() for own in logits)
    wanted = [each for own, layer in zip(logits, layers, strict=True) for each in (own, layer.weight)]
    for gradient, expected in zip(found, torch.autograd.grad(loss, wanted), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
        assert float(gradient.std()) > 0


def test_gates_begin_about_as_open_as_they_are_told_and_leave_weights_alone(bench: Any) -> None:
    fields = {**GATES, "regularizers": [{"type": "l0", "alpha": 0.01, "initial_drop": 0.2}]}
    with_gates, without = (
        start(bench.material("digits", **{**fields, **other}), (0,), CPU).network for other in ({}, {"regularizers": []})
    )
    assert len(gated(with_gates)) == 3
    for layer in gated(with_gates):
        torch.testing.assert_close(layer.log_alpha.sigmoid().detach(), torch.full((layer.in_features,), 0.8), rtol=0, atol=0.01)
        assert float(layer.log_alpha.detach().std()) > 0
    for name, tensor in without.learned().items():
        assert torch.equal(with_gates.learned()[name], tensor)


def test_nothing_else_acts_on_gates(bench: Any) -> None:
    """No decay, no penalty on all parameters; without a price and a gradient they rest."""
    penalties = [{"type": "l0", "alpha": 0.0}, {"type": "l2", "alpha": 0.5, "parameters": "all"}, {"type": "l1", "alpha": 1.0}]
    optimizer = {"type": "adamw", "weight_decay": 10.0}
    made = bench.material("digits", **{**GATES, "regularizers": penalties, "optimizer": optimizer})
    network = start(made, (0,), CPU).network
    everything = {id(p) for p in weights_of(network, list(network.layers()), everything=True)}
    assert not everything & {id(layer.log_alpha) for layer in gated(network)}


def close(network: Network, layer: str, units: list[int]) -> None:
    """Close the gates of these inputs, and open the others to different degrees."""
    (found,) = [module for module in network.layers()[layer].modules() if isinstance(module, Gated)]
    with torch.no_grad():
        found.log_alpha.copy_(torch.linspace(-1, 3, found.in_features))
        found.log_alpha[units] = -9.0


CLOSED = {"hidden.0": list(range(20, 50)), "hidden.1": [0, 3, 15], "head.label": [1, 2, 5, 11]}


@pytest.mark.parametrize("architecture", [NET, {**NET, "batch_norm": True, "activation": "sigmoid"}, {**NET, "dropout": 0.3}])
def test_what_is_published_is_smaller_and_says_the_same(bench: Any, architecture: Any) -> None:
    """A sigmoid of nothing is one half, which only the gate keeps from the next layer."""
    made = bench.material("digits", **{**GATES, "architecture": architecture})
    whole = build(made, torch.Generator().manual_seed(0)).eval()
    for name, units in CLOSED.items():
        close(whole, name, units)
    x, _ = made.rows(made.parts.test)
    before = whole(x)["label"].detach()
    (small,), cut = pruned([whole])
    assert cut == ((13, 8), 34)
    assert [tuple(weights_of(small, [name], everything=False)[0].shape) for name in small.layers()] == [(13, 34), (8, 13), (10, 8)]
    assert not gated(small)
    torch.testing.assert_close(small.eval()(x)["label"], before, rtol=1e-6, atol=1e-6 * float(before.abs().max()))


def test_a_net_with_bridges_keeps_its_widths(bench: Any) -> None:
    made = bench.material("digits", **{**GATES, "architecture": {"type": "mlp", "hidden": [16, 16, 16], "residual": True}})
    whole = build(made, torch.Generator().manual_seed(0)).eval()
    close(whole, "hidden.1", [0, 3, 15])
    x, _ = made.rows(made.parts.test)
    before = whole(x)["label"].detach()
    (folded,), cut = pruned([whole])
    assert cut is None
    assert not weights_of(folded, ["hidden.1"], everything=False)[0][:, [0, 3, 15]].any()
    torch.testing.assert_close(folded.eval()(x)["label"], before, rtol=1e-6, atol=1e-6)


def test_an_autoencoder_whose_heads_read_different_layers_keeps_its_widths(bench: Any) -> None:
    coder = {"type": "autoencoder", "hidden": [12], "code": 4}
    targets = [{"name": "input", "task": "reconstruction"}, {"name": "label"}]
    made = bench.material("digits", **{**GATES, "architecture": coder, "targets": targets})
    whole = build(made, torch.Generator().manual_seed(0)).eval()
    close(whole, "encoder.0", [0, 3, 15])
    x, _ = made.rows(made.parts.test)
    before = {name: raw.detach() for name, raw in whole(x).items()}
    (folded,), cut = pruned([whole])
    assert cut is None
    for name, raw in folded.eval()(x).items():
        torch.testing.assert_close(raw, before[name], rtol=1e-5, atol=1e-5)


def test_units_that_another_layer_reads_stay(bench: Any) -> None:
    """Gates before one layer alone: the units stay, since the other heads or a layer without gates read them."""
    made = bench.material("digits", **{**GATES, "regularizers": [{"type": "l0", "alpha": 0.01, "layers": ["hidden.1"]}]})
    whole = build(made, torch.Generator().manual_seed(0)).eval()
    close(whole, "hidden.1", [0, 3, 15])
    _, cut = pruned([whole])
    assert cut == ((13, 12), None)


def test_when_everything_is_closed_one_unit_is_left(bench: Any) -> None:
    made = bench.material("digits", **GATES)
    whole = build(made, torch.Generator().manual_seed(0)).eval()
    for name, count in (("hidden.0", 64), ("hidden.1", 16), ("head.label", 12)):
        close(whole, name, list(range(count)))
    x, _ = made.rows(made.parts.test)
    before = whole(x)["label"].detach()
    (small,), cut = pruned([whole])
    assert cut == ((1, 1), 1)
    torch.testing.assert_close(small.eval()(x)["label"], before)


@pytest.fixture(scope="module")
def summaries(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two members with gates of their own prices, as a worker leaves them."""
    made = bench.material("digits", **{**GATES, **FAST, "epochs": 30}, ensemble={"size": 2, "vary": {"alpha": [0.003, 0.03]}})
    store = Folder(tmp_path_factory.mktemp("store"))
    kept = []
    for member in (0, 1):
        trained = bench.train(made, member)
        file = store.write(f"jobs/x/{member}", pack(trained.run.only.best))._asdict()
        kept.append({"member": member, "file": file, "best": trained.run.only.patience.best, "network": trained.run.network})
    return made, store, kept


def test_members_are_cut_to_the_widest_and_read_back(bench: Any, summaries: Any) -> None:
    made, store, kept = summaries
    model = gather(made, store, kept)
    x, _ = made.rows(made.parts.test)
    assert model.cut is not None
    assert model.cut.reads is not None
    assert model.cut.reads < 64
    for summary, network in zip(kept, model.networks, strict=True):
        whole = build(made, None, member=summary["member"])
        whole.load(unpack(store.read(summary["file"])))
        torch.testing.assert_close(network(x)["label"], whole.eval()(x)["label"].detach(), rtol=1e-5, atol=1e-5)
    again = rebuild(model.spec.dump(), json.loads(json.dumps(model.describe())), pack(model.tensors(), model.aliases()))
    axes = Asking().axes(model)
    assert torch.equal(ask(again, x, axes)["label"].probabilities, ask(model, x, axes)["label"].probabilities)


def test_a_higher_price_leaves_fewer_inputs(summaries: Any) -> None:
    _, _, kept = summaries
    cheap, dear = (sum(int((deterministic(layer.log_alpha) > 0).sum()) for layer in gated(each["network"])) for each in kept)
    assert dear < 0.8 * cheap


def steps(bench: Any, **fields: Any) -> Any:
    made = bench.material("digits", architecture=NET, batch_size=220, epochs=6, early_stopping=None, **fields)
    run = start(made, (0,), CPU)
    return made, run, train(run, Task(made, run, CPU), tick_s=-1)


@pytest.mark.parametrize("keep", [0.2, 50])
@pytest.mark.parametrize("optimizer", [{"type": "adam"}, {"type": "sgd", "learning_rate": 0.5, "momentum": 0.0}])
def test_a_projection_holds_after_every_step_and_its_support_in_the_second_half(bench: Any, keep: Any, optimizer: Any) -> None:
    _, run, records = steps(bench, regularizers=[{"type": "l0", "method": "projection", "keep": keep}], optimizer=optimizer)
    supports: dict[str, list[Any]] = {name: [] for name in run.network.layers()}
    for _ in records:
        for name, seen in supports.items():
            (weight,) = weights_of(run.network, [name], everything=False)
            count = round(keep * weight.numel()) if keep < 1 else keep
            assert int(weight.count_nonzero()) == count
            seen.append((run.step, weight.detach() != 0))
    for seen in supports.values():
        late = [mask for step, mask in seen if step > 20]
        early = [mask for step, mask in seen if step <= 17]
        assert all(torch.equal(mask, late[0]) for mask in late)
        assert not all(torch.equal(mask, early[0]) for mask in early), "before that it moved"


def test_the_series_follow_what_is_zero(bench: Any) -> None:
    penalties = [{"type": "l0", "alpha": 0.2, "layers": ["hidden.0"]}, {"type": "l1", "alpha": 0.01, "layers": ["hidden.1"]}]
    made = bench.material("digits", architecture=NET, regularizers=penalties, epochs=12, early_stopping=None, **FAST)
    trained = bench.train(made)
    values = trained.epochs[-1].values
    assert {name for name in values if name.startswith("sparsity.")} == {"sparsity.hidden.0", "sparsity.hidden.1"}
    (first,) = gated(trained.run.network)
    open_ = deterministic(first.log_alpha.detach()) > 0
    assert values["sparsity.hidden.0"] == pytest.approx(1 - float(open_.double().mean()), abs=1e-6)
    assert values["sparsity.hidden.0"] > 0.1
    (weight,) = weights_of(trained.run.network, ["hidden.1"], everything=False)
    assert values["sparsity.hidden.1"] == pytest.approx(float((weight == 0).double().mean()), abs=1e-6)
    assert values["penalty.l0"] == pytest.approx(0.2 * float(chances(first.log_alpha.detach()).sum()), rel=1e-5)
    plain = bench.train(bench.material("digits", architecture=NET, epochs=1)).epochs[-1].values
    assert not [name for name in plain if name.startswith("sparsity.")]
