"""Layers that are tied or one, and networks that begin as a stored one."""

import io
import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from service.data.columns import Columns
from service.errors import Conflict, Invalid
from service.inference.material import prepare
from service.inference.model import Model, rebuild
from service.inference.sources import read_sources
from service.layer_checks import Stored, shapes_of
from service.nets.network import weights_of
from service.nets.pruning import pruned
from service.resolving import resolve
from service.settings import Settings
from service.spec import TrainSpec
from service.storage.files import Folder
from workers.training.checkpointing import pack
from workers.training.loop import train
from workers.training.run import build, start
from workers.training.steps import objective
from workers.training.task import Task

CPU = torch.device("cpu")
NET = {"type": "mlp", "hidden": [12, 12, 12]}
SHARED = {"type": "share", "layers": ["hidden.1", "hidden.2"]}
MODEL = "mdl_00000000000000000000000001"


@pytest.fixture(scope="module")
def stored(bench: Any) -> Model:
    """A model of two members."""
    made = bench.material("digits", architecture={**NET, "batch_norm": True}, epochs=2, ensemble={"size": 2})
    return bench.model(made, *(bench.train(made, member) for member in (0, 1)))


def material(bench: Any, stored: Model, **fields: Any) -> Any:
    """What a job trains on that refers to the model as `before`."""
    known = Stored(MODEL, tuple(shapes_of(network) for network in stored.networks))
    raw = {"dataset": "digits", "architecture": {**NET, "batch_norm": True}, "batch_size": 220, "epochs": 3, **fields}
    spec = TrainSpec.model_validate(resolve(raw, bench._source, Settings(), lambda ref: known).spec)
    return prepare(spec, Columns(bench.folder / "digits"), {MODEL: stored.networks})


def gradients(bench: Any, regularizers: list[Any]) -> Any:
    made = bench.material("digits", architecture=NET, regularizers=regularizers)
    run = start(made, (0,), CPU)
    task = Task(made, run, CPU)
    with torch.no_grad():  # the same start for both: the first of the two
        layers = run.network.layers()
        layers["hidden.2"].load_state_dict(layers["hidden.1"].state_dict())
    batch = next(task.batches.walk(task.batches.order(run.streams("order")), 0))
    objective(run.network, task, batch.x, batch.labels).backward()
    return {name: tensor.grad for name, tensor in run.network.named_parameters()}


@pytest.mark.parametrize("which", ["weights", "all"])
def test_the_gradient_of_a_shared_layer_is_the_sum_of_those_of_two_copies(bench: Any, which: str) -> None:
    apart, one = gradients(bench, []), gradients(bench, [{**SHARED, "parameters": which}])
    for part in ("weight", "bias"):
        first, second = (f"trunk.hidden.{i}.linear.{part}" for i in (1, 2))
        if part == "weight" or which == "all":
            torch.testing.assert_close(one[first], apart[first] + apart[second], rtol=1e-5, atol=1e-7)
            assert second not in one
        else:
            torch.testing.assert_close(one[second], apart[second])


def test_a_shared_layer_is_learnt_counted_and_saved_once(bench: Any, tmp_path: Any) -> None:
    penalties = [{**SHARED, "parameters": "all"}, {"type": "l2", "alpha": 0.01}]
    made = bench.material("digits", architecture=NET, regularizers=penalties, epochs=2)
    trained = bench.train(made)
    network = trained.run.network
    assert len([p for group in trained.run.optimizer.param_groups for p in group["params"]]) == 6
    assert network.saved == 12 * 12 + 12
    assert [layer.parameters for layer in network.describe()] == [64 * 12 + 12, 12 * 12 + 12, 0, 12 * 10 + 10]
    squares = sum(float(p.detach().square().sum()) for p in network.parameters() if p.ndim == 2)
    assert Task(made, trained.run, CPU).penalties.values(0) == {"l2": pytest.approx(0.01 * squares, rel=1e-5)}
    model = bench.model(made, trained)
    content = pack(model.tensors(), model.aliases())
    aliases = {f"members.0.trunk.hidden.2.linear.{part}": f"members.0.trunk.hidden.1.linear.{part}" for part in ("weight", "bias")}
    assert not aliases.keys() & load(content).keys()
    (tmp_path / "m").write_bytes(content)
    with safe_open(tmp_path / "m", "pt") as file:
        assert json.loads(file.metadata()["temper"])["aliases"] == aliases
    again = rebuild(model.spec.dump(), json.loads(json.dumps(model.describe())), content)
    x, _ = made.rows(made.parts.test)
    assert torch.equal(again.networks[0](x)["label"], model.networks[0](x)["label"])
    layers = again.networks[0].layers()
    assert layers["hidden.1"].linear.weight is layers["hidden.2"].linear.weight


@pytest.mark.parametrize("stacked", [False, True])
def test_a_stronger_tie_keeps_layers_closer(bench: Any, stacked: bool) -> None:
    """Member by member: what varies is the tie's alpha."""
    tie = [{"type": "tie", "between": ["hidden.1", "hidden.2"], "alpha": 0.0}]
    vary = {"size": 3, "vary": {"alpha": [0.0, 0.01, 1.0]}}
    made = bench.material("digits", architecture=NET, regularizers=tie, ensemble=vary, epochs=8, early_stopping=None)
    gaps = []
    for members in ((0, 1, 2),) if stacked else ((0,), (1,), (2,)):
        run = start(made, members, CPU, stacked=stacked)
        for _ in train(run, Task(made, run, CPU), tick_s=1e9):
            pass
        a, b = (weights_of(run.network, [name], everything=False)[0].detach() for name in ("hidden.1", "hidden.2"))
        gaps += [float(gap.square().sum()) for gap in ((a - b) if stacked else (a - b).unsqueeze(0))]
    assert gaps[0] > 1.5 * gaps[1] > 3 * gaps[2]


@pytest.mark.parametrize("stacked", [False, True])
def test_members_begin_as_the_stored_ones_in_turn(bench: Any, stored: Model, stacked: bool) -> None:
    """Running statistics too; what is not named begins at random, each member by its own seed."""
    made = material(bench, stored, init={"model": "before", "layers": ["hidden.*"]}, ensemble={"size": 3})
    runs = [start(made, (0, 1, 2), CPU, stacked=True)] if stacked else [start(made, (member,), CPU) for member in range(3)]
    learned = [run.learned(place) for run in runs for place in range(len(run.members))]
    for member, own in enumerate(learned):
        theirs = stored.networks[member % 2].learned()
        assert all(torch.equal(own[name], tensor) == (not name.startswith("heads")) for name, tensor in theirs.items() if "weight" in name)
        assert torch.equal(own["trunk.hidden.0.norm.running_mean"], theirs["trunk.hidden.0.norm.running_mean"])
    assert not torch.equal(learned[0]["heads.0.weight"], learned[2]["heads.0.weight"])


@pytest.mark.parametrize("stacked", [False, True])
def test_what_is_frozen_stays_to_the_bit(bench: Any, stored: Model, stacked: bool) -> None:
    penalties = [{"type": "l2", "alpha": 0.1}, {"type": "l1", "alpha": 0.01, "parameters": "all"}, {"type": "max_norm", "limit": 0.1}]
    init = {"model": "before", "layers": ["hidden.*"], "freeze": ["hidden.0", "hidden.1"]}
    made = material(bench, stored, init=init, regularizers=penalties, ensemble={"size": 2}, optimizer={"type": "adamw"})
    run = start(made, (0, 1) if stacked else (1,), CPU, stacked=stacked)
    everyone = list(run.members)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    for member in everyone:
        for name, tensor in stored.networks[member.number].learned().items():
            frozen = name.startswith(("trunk.hidden.0", "trunk.hidden.1"))
            assert torch.equal(member.best[name], tensor) == frozen, name


def test_fine_tuning_resumes_and_knows_its_stored_model(bench: Any, stored: Model) -> None:
    """L2-SP: a tie to the start; bit for bit after an interruption, frozen layers and all."""
    start_at = {"model": "before", "layers": ["hidden.*"], "freeze": ["hidden.0"]}
    ties = [{"type": "tie", "between": ["hidden.1", {"model": "before", "layer": "hidden.1"}], "alpha": 0.5, "parameters": "all"}]
    made = material(bench, stored, init=start_at, regularizers=ties)
    assert made.spec.init.model == made.spec.regularizers[0].between[1].model == MODEL
    straight = start(made, (0,), CPU)
    records = train(straight, Task(made, straight, CPU), tick_s=-1)
    for _ in range(9):
        next(records)
    weights, rest = straight.capture()
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    rest = json_free(rest)
    values = [record.measured[0]["penalty.tie"] for record in records if hasattr(record, "measured")]
    resumed = start(made, (0,), CPU)
    resumed.restore(weights, rest)
    for _ in train(resumed, Task(made, resumed, CPU), tick_s=-1):
        pass
    assert pack(resumed.only.best) == pack(straight.only.best)
    theirs, own = stored.networks[0].learned(), straight.network.learned()
    gap = sum(float((own[name].detach() - theirs[name]).square().sum()) for name in theirs if "hidden.1" in name and "running" not in name)
    assert values[-1] == pytest.approx(0.5 * gap, rel=1e-4)
    assert gap > 0


def json_free(rest: Any) -> Any:
    """A copy by way of bytes, as a checkpoint's."""
    content = io.BytesIO()
    torch.save(rest, content)
    content.seek(0)
    return torch.load(content, weights_only=True)


def test_a_model_that_was_deleted_is_said_to_be(bench: Any, stored: Model, tmp_path: Any) -> None:
    made = material(bench, stored, init={"model": "before"})
    store = Folder(tmp_path)
    with pytest.raises(Conflict) as refused:
        read_sources(made.spec, store)
    assert (refused.value.slug, refused.value.status) == ("model-deleted", 409)
    for name, content in {
        "spec.json": json.dumps(stored.spec.dump()).encode(),
        "encoding.json": json.dumps(stored.describe()).encode(),
        "model.safetensors": pack(stored.tensors()),
    }.items():
        store.write(f"models/{MODEL}/{name}", content)
    (found,) = read_sources(made.spec, store).values()
    assert [pack(network.learned()) for network in found] == [pack(network.learned()) for network in stored.networks]


STORED = {"model": "before", "layer": "hidden.1"}
TIE, L0 = {"type": "tie", "alpha": 0.1}, {"type": "l0", "alpha": 0.1}
NARROW = {"type": "mlp", "hidden": [12, 12, 8]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such layer": ({"regularizers": [{**TIE, "between": ["hidden.1", "hidden.7"]}]}, "/regularizers/0/between/1"),
    "no such stored layer": (
        {"regularizers": [{**TIE, "between": ["hidden.1", {**STORED, "layer": "x"}]}]},
        "/regularizers/0/between/1/layer",
    ),
    "other shapes": ({"regularizers": [{**TIE, "between": ["hidden.0", "hidden.1"]}]}, "/regularizers/0/between"),
    "stored of another shape": ({"regularizers": [{**TIE, "between": ["hidden.0", STORED]}]}, "/regularizers/0/between"),
    "transposed of another shape": (
        {"regularizers": [{**TIE, "between": ["hidden.0", "hidden.1"], "transposed": True}]},
        "/regularizers/0/between",
    ),
    "two ties on one layer": (
        {"regularizers": [{**TIE, "between": ["hidden.1", "hidden.2"]}, {**TIE, "between": ["hidden.1", STORED]}]},
        "/regularizers/1",
    ),
    "a tie within one": ({"regularizers": [SHARED, {**TIE, "between": ["hidden.1", "hidden.2"]}]}, "/regularizers/1/between"),
    "sharing a missing layer": ({"regularizers": [{**SHARED, "layers": ["hidden.1", "hiden.2"]}]}, "/regularizers/0/layers/1"),
    "sharing other shapes": ({"regularizers": [{**SHARED, "layers": ["hidden.0", "hidden.1"]}]}, "/regularizers/0/layers"),
    "sharing with nobody": ({"regularizers": [{**SHARED, "layers": ["hidden.1"]}]}, "/regularizers/0/layers"),
    "two shares on one layer": ({"regularizers": [SHARED, {**SHARED, "layers": ["hidden.*"]}], "architecture": NET}, "/regularizers/1"),
    "sharing frozen with free": (
        {"regularizers": [SHARED], "init": {"model": "before", "freeze": ["hidden.1"]}},
        "/regularizers/0/layers",
    ),
    "gates on a shared layer": ({"regularizers": [SHARED, {**L0, "layers": ["hidden.2"]}]}, "/regularizers/1"),
    "gates on a frozen layer": (
        {"regularizers": [{**L0, "layers": ["hidden.*"]}], "init": {"model": "before", "freeze": ["hidden.1"]}},
        "/regularizers/0",
    ),
    "gates on nothing that learns": (
        {"regularizers": [{**L0, "layers": ["hidden.1"]}], "init": {"model": "before", "freeze": ["hidden.1"]}},
        "/regularizers/0",
    ),
    "gates twice": ({"regularizers": [L0, {**L0, "layers": ["hidden.0"]}]}, "/regularizers/1"),
    "more weights than there are": (
        {"regularizers": [{"type": "l0", "method": "projection", "keep": 10**6}]},
        "/regularizers/0/keep",
    ),
    "a penalty on what is frozen": (
        {"regularizers": [{"type": "l2", "alpha": 0.1, "layers": ["hidden.1"]}], "init": {"model": "before", "freeze": ["hidden.1"]}},
        "/regularizers/0",
    ),
    "starting layers that are not there": ({"init": {"model": "before", "layers": ["conv.*"]}}, "/init/layers/0"),
    "freezing layers that are not there": ({"init": {"model": "before", "freeze": ["conv.*"]}}, "/init/freeze/0"),
    "freezing what was not taken over": ({"init": {"model": "before", "layers": ["hidden.0"], "freeze": ["hidden.1"]}}, "/init/freeze"),
    "freezing everything": ({"init": {"model": "before", "freeze": ["*"]}}, "/init/freeze"),
    "another width": ({"architecture": {**NARROW, "batch_norm": True}, "init": {"model": "before"}}, "/init/model"),
    "another width, by name": (
        {"architecture": {**NARROW, "batch_norm": True}, "init": {"model": "before", "layers": ["hidden.2"]}},
        "/init/layers",
    ),
    "no batch norm": ({"architecture": NET, "init": {"model": "before"}}, "/init/model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_at_its_place(bench: Any, stored: Model, name: str) -> None:
    fields, pointer = REFUSED[name]
    with pytest.raises(Invalid) as refused:
        material(bench, stored, **fields)
    assert (refused.value.flaws[0].pointer, refused.value.flaws[0].code) == (pointer, "inconsistent-spec")
    assert {flaw.code for flaw in refused.value.flaws} == {"inconsistent-spec"}
    assert len(refused.value.flaws) == 1 or name in ("two shares on one layer", "another width", "no batch norm")


def test_only_what_is_named_has_to_fit(bench: Any, stored: Model) -> None:
    """Fine-tuning for other classes: the head is left out."""
    made = material(
        bench, stored, architecture={**NARROW, "batch_norm": True}, init={"model": "before", "layers": ["hidden.0", "hidden.1"]}
    )
    own, theirs = start(made, (0,), CPU).network.learned(), stored.networks[0].learned()
    assert torch.equal(own["trunk.hidden.1.linear.weight"], theirs["trunk.hidden.1.linear.weight"])
    assert build(made, None).learned().keys() == own.keys()


TIED = {"dataset": "digits", "targets": [{"name": "input", "task": "reconstruction"}]}
TIED["architecture"] = {"type": "autoencoder", "hidden": [16], "code": 4, "tied": True}


@pytest.mark.parametrize(
    ("penalty", "pointer"),
    [
        ({"type": "l0", "alpha": 0.1, "layers": ["encoder.*"]}, "/regularizers/0"),
        ({"type": "l2", "alpha": 0.1, "layers": ["decoder.*"]}, "/regularizers/0/layers"),
        ({"type": "share", "layers": ["decoder.0", "head.input"]}, "/regularizers/0/layers"),
        ({"type": "tie", "between": ["encoder.0", "decoder.0"], "alpha": 0.1}, "/regularizers/0/between"),
    ],
)
def test_what_has_the_weights_of_another_layer_has_none_to_act_on(bench: Any, penalty: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        resolve({**TIED, "regularizers": [penalty]}, bench._source, Settings())
    assert (refused.value.flaws[0].pointer, refused.value.flaws[0].code) == (pointer, "inconsistent-spec")


@pytest.mark.parametrize("stacked", [False, True])
def test_an_autoencoder_may_be_tied_softly_and_have_gates(bench: Any, stacked: bool) -> None:
    """A decoder near the encoder's transpose, and a code behind gates, which keep its widths."""
    penalties = [
        {"type": "tie", "between": ["encoder.0", "head.input"], "transposed": True, "alpha": 1.0},
        {"type": "l0", "alpha": 0.001, "layers": ["decoder.*"]},
    ]
    fields = {"targets": TIED["targets"], "architecture": {**TIED["architecture"], "tied": False}}
    made = bench.material("digits", **fields, regularizers=penalties, epochs=6, ensemble={"size": 2})
    run = start(made, (0, 1) if stacked else (0,), CPU, stacked=stacked)
    everyone = list(run.members)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    best = everyone[0].best
    gap = best["trunk.encoder.0.weight"] - best["heads.0.weight"].T
    assert float(gap.square().mean()) < 0.3 * float(best["heads.0.weight"].square().mean())
    whole = made.build(None)
    whole.load(best)
    x, _ = made.rows(made.parts.test)
    before = whole.eval()(x)["input"].detach()
    (folded,), cut = pruned([whole])
    assert cut is None
    torch.testing.assert_close(folded.eval()(x)["input"], before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "words"),
    [({"type": "layer_norm"}, "layer_norm.0 learns none of its own; parameters: all"), ({"type": "share", "as": "linear.0"}, None)],
)
def test_a_penalty_on_gains_alone_says_how_to_reach_them(bench: Any, layer: dict[str, Any], words: str | None) -> None:
    """A norm has no other layer's weights, as a tied one has."""
    layers = [{"type": "flatten"}, {"type": "linear", "width": 64}, layer]
    name = f"{layer['type']}.0"
    fields = {"architecture": {"type": "layers", "layers": layers}, "regularizers": [{"type": "l2", "alpha": 0.1, "layers": [name]}]}
    with pytest.raises(Invalid) as refused:
        bench.material("digits", **fields)
    (flaw,) = refused.value.flaws
    assert flaw.pointer.startswith("/regularizers/0/layers")
    assert flaw.code == "inconsistent-spec"
    assert words is None or words in flaw.message
