"""Lists of named layers: the functions of the other architectures spelled out, what is transposed of what, and shapes that do not fit."""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from service.errors import NotFound
from service.flaws import flaws_of
from service.inference.weight_scaling import kept
from service.nets import Architecture
from service.nets.cnn import CNN
from service.nets.conv_autoencoder import ConvAutoencoder
from service.nets.layer import Run
from service.nets.layers import MOST_LAYERS, every
from service.nets.mlp import MLP
from service.nets.network import Network, NetworkSpec, Scale, stack, stackable
from service.nets.projection import convolutions, project
from service.nets.pruning import pruned
from service.nets.recurrent import Recurrent
from service.nets.resnet import ResNet
from service.nets.sequential import Chain, Sequential
from service.tricks.dropout import SCALED, Replayed
from service.tricks.multitask import Classification, Reconstruction
from service.tricks.normalization import Normalize
from service.tricks.sparsity import L0

Shape = tuple[int, ...]
DOUBLE = {"dtype": torch.float64}
LEARNING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.modules.batchnorm._BatchNorm)
RELU, NORM = {"type": "activation"}, {"type": "batch_norm"}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def listed(*layers: dict[str, Any], **fields: Any) -> Sequential:
    return Sequential.model_validate({"layers": list(layers), **fields})


def chain(shape: Shape, *layers: dict[str, Any], kind: str = "image") -> Chain:
    return listed(*layers).build(shape, torch.Generator().manual_seed(0), kind=kind).double()


def convolution(channels: int, **fields: Any) -> dict[str, Any]:
    return {"type": "convolution", "channels": channels, **fields}


def linear(width: int, **fields: Any) -> dict[str, Any]:
    return {"type": "linear", "width": width, **fields}


def copied(source: nn.Module, trunk: Chain) -> None:
    """The weights and statistics of another network, in forward order; a shortcut has none there."""
    theirs = [module for module in source.modules() if isinstance(module, LEARNING)]
    ours = [module for name, step in trunk.steps.items() if step.learns and not name.startswith("down") for module in step.modules()]
    for ours_, theirs_ in zip([module for module in ours if isinstance(module, LEARNING)], theirs, strict=True):
        ours_.load_state_dict(theirs_.state_dict(), strict=False)


def moved(module: nn.Module) -> nn.Module:
    """With gains and statistics that are not those of the beginning."""
    for i, norm in enumerate(each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)):
        generator = torch.Generator().manual_seed(i)
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2, generator=generator)
    return module.double()


def test_a_residual_perceptron_spelled_out() -> None:
    theirs: Any = moved(MLP(hidden=(6, 6, 6), residual=True, batch_norm=True).build((5,), torch.Generator().manual_seed(1)))
    pair = {"type": "residual", "layers": [linear(6), NORM, RELU, linear(6), NORM]}
    ours = chain((5,), linear(6), NORM, RELU, pair, RELU, kind="table")
    copied(theirs, ours)
    x = draw(7, 5)
    for training in (False, True):
        torch.testing.assert_close(ours.train(training)(x, SCALED), theirs.train(training)(x, SCALED), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "kind"), [((8, 7), "image"), ((8, 6, 3), "image"), ((9, 4), "tensor")])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_a_convolutional_network_spelled_out(shape: Shape, kind: str, pooling: Any) -> None:
    spec = CNN(channels=(4, 6), kernel=4, pool=pooling, hidden=(5,), activation="tanh", batch_norm=True)
    theirs: Any = moved(spec.build(shape, torch.Generator().manual_seed(1), kind=kind)).eval()
    tanh, pool = {"type": "activation", "function": "tanh"}, {"type": f"{pooling}_pool"}
    stages = [layer for channels in (4, 6) for layer in (convolution(channels, kernel=4, bias=False), NORM, tanh, pool)]
    ours = chain(shape, *stages, {"type": "flatten"}, linear(5), NORM, tanh, kind=kind).eval()
    copied(theirs, ours)
    # A convolutional network flattens channels first; flatten is in the order of data.
    *extents, channels = ours.placed["flatten.0"].before
    dense = ours.steps["linear.0"].get_parameter("linear.weight")
    dense.data = dense.data.unflatten(1, (channels, *extents)).movedim(1, -1).flatten(1)
    x = draw(3, *shape)
    torch.testing.assert_close(ours(x, SCALED), theirs(x, SCALED), rtol=1e-12, atol=1e-12)
    assert ours.repeated() == theirs.repeated()
    other = Sequential(layers=()).build(shape, None, kind=kind)
    assert torch.equal(other(x, SCALED), x.flatten(1)), "without layers the features are the row, in the order of data"


def test_a_residual_network_spelled_out() -> None:
    """Option A as a shortcut of 1x1 kernels: every second place, and zeros for the channels that come in addition."""
    theirs: Any = moved(ResNet(depth=8, width=4).build((8, 8, 3), torch.Generator().manual_seed(1), kind="image"))
    blocks: list[dict[str, Any]] = []
    for i in range(3):
        channels, stride = 4 * 2**i, 2 if i else 1
        inner = [convolution(channels, stride=stride, bias=False), NORM, RELU, convolution(channels, bias=False), NORM]
        down = [convolution(channels, kernel=1, stride=2, bias=False, name=f"down.{i}")] if i else []
        blocks += [{"type": "residual", "layers": inner, "shortcut": down}, RELU]
    ours = chain((8, 8, 3), convolution(4, bias=False), NORM, RELU, *blocks, {"type": "average_pool", "kernel": 2}, {"type": "flatten"})
    copied(theirs, ours)
    bridges = {name: each for name, each in ours.placed.items() if name.startswith("down")}
    assert ours.repeated() - sum(each.layer.repeated(each, {}) for each in bridges.values()) == theirs.repeated()
    for i in (1, 2):
        weight = ours.steps[f"down.{i}"].get_parameter("conv.weight")
        weight.data = torch.eye(*weight.shape[:2], **DOUBLE)[..., None, None]
    x = draw(3, 8, 8, 3)
    for training in (False, True):
        torch.testing.assert_close(ours.train(training)(x, SCALED), theirs.train(training)(x, SCALED), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sort", ["max_pool", "average_pool"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 3), (2, 3), (3, 2)])
@pytest.mark.parametrize("extents", [(8,), (7, 8)])
def test_unpool_is_the_transposed_jacobian_of_its_pool(sort: str, kernel: int, stride: int, extents: Shape) -> None:
    pool = {"type": sort, "kernel": kernel, "stride": stride}
    both = listed(pool, {"type": "unpool", "of": f"{sort}.0"})
    if sort == "max_pool" and stride < kernel:
        (flaw,) = both.fits((*extents, 3), kind="tensor")
        assert flaw.pointer == "/layers/1/of"
        return
    trunk = both.build((*extents, 3), None, kind="tensor")
    run, x = Run(SCALED, []), draw(2, 3, *extents).requires_grad_(True)
    values = trunk.steps[f"{sort}.0"](x, run)
    y = draw(*values.shape, seed=1)
    (slope,) = torch.autograd.grad(values, x, y)
    torch.testing.assert_close(trunk.steps["unpool.0"](y, run), slope, rtol=1e-14, atol=1e-15)


WINDOWS: list[dict[str, Any]] = [
    {"kernel": 3},
    {"kernel": 4, "stride": 2},
    {"kernel": 2, "stride": 3},
    {"kernel": 3, "stride": 2, "padding": 1, "size": 8},
    {"kernel": 3, "stride": 2, "padding": 0, "size": 10},
    {"kernel": 3, "padding": 2, "dilation": 2},
    {"kernel": 2, "stride": 2, "dilation": 3, "groups": 2},
    {"kernel": 5, "stride": 3, "padding": 4, "groups": 2, "bias": False},
]


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_transposed_convolution_is_the_transpose_of_the_convolution_with_the_same_fields(window: dict[str, Any], axes: int) -> None:
    """Its matrix is the convolution's transposed, and either has as many entries as weights without sharing."""
    fields = {key: value for key, value in window.items() if key != "size"}
    size = {"size": [window["size"]] * axes} if "size" in window else {}
    shape = (4,) * axes
    up = chain((*shape, 6), {"type": "transposed_convolution", "channels": 4, **fields, **size}, kind="tensor")
    wide = up.shapes()["transposed_convolution.0"]
    down = chain(wide, convolution(6, **fields), kind="tensor")
    assert down.shapes()["convolution.0"] == (*shape, 6)
    step, other = up.steps["transposed_convolution.0"], down.steps["convolution.0"]
    weight = next(p for p in other.parameters() if p.ndim > 1)
    weight.data = step.get_parameter("weight").data.clone()
    matrices = []
    for each, inputs in ((step, (*shape, 6)), (other, wide)):
        for parameter in each.parameters():
            if parameter.ndim == 1:
                parameter.data.zero_()
        entries = math.prod(inputs)
        rows = torch.eye(entries, **DOUBLE).view(entries, inputs[-1], *inputs[:-1])
        matrices.append(each(rows, Run(SCALED, [])).detach().flatten(1).T)
    torch.testing.assert_close(matrices[0], matrices[1].T, rtol=0, atol=1e-14)
    for trunk, matrix in zip((up, down), matrices, strict=True):
        assert trunk.repeated() + weight.numel() == int((matrix != 0).sum())


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6,), linear(6)),
        ((7, 6), convolution(6, kernel=3)),
        ((4, 5, 6), {"type": "transposed_convolution", "channels": 6, "kernel": 4, "stride": 2}),
    ],
)
def test_the_gradient_of_a_shared_layer_is_the_sum_over_its_uses(shape: Shape, layer: dict[str, Any]) -> None:
    tanh = {"type": "activation", "function": "tanh"}
    once = chain(shape, {**layer, "name": "a"}, tanh, {"type": "share", "as": "a"}, kind="tensor")
    twice = chain(shape, {**layer, "name": "a"}, tanh, {**layer, "name": "b"}, kind="tensor")
    x = draw(4, *shape)
    twice.steps["a"].load_state_dict(once.steps["a"].state_dict())
    twice.steps["b"].load_state_dict(once.steps["a"].state_dict())
    said = [trunk(x, SCALED) for trunk in (once, twice)]
    torch.testing.assert_close(said[0], said[1], rtol=1e-14, atol=1e-14)
    for found in said:
        found.square().sum().backward()
    for name, parameter in once.steps["a"].named_parameters():
        assert parameter.grad is not None
        both = [twice.steps[step].get_parameter(name).grad for step in ("a", "b")]
        torch.testing.assert_close(parameter.grad, both[0] + both[1], rtol=1e-12, atol=1e-12)
    assert once.repeated() == twice.repeated()
    assert list(once.linears()) == ["a"]
    assert list(once.named()) == ["a", "activation.0", "share.0"]


EVERYTHING: list[dict[str, Any]] = [
    convolution(4, kernel=4, name="first"),
    NORM,
    RELU,
    {"type": "max_pool", "name": "pool"},
    {"type": "residual", "layers": [convolution(4, name="inner"), {"type": "layer_norm"}, RELU, {"type": "share", "as": "inner"}]},
    {"type": "dropout", "rate": 0.2, "channel": True},
    {"type": "dropout", "rate": 0.3},
    {"type": "flatten"},
    linear(5, name="code"),
    linear(16),
    {"type": "reshape", "shape": [2, 2, 4]},
    {"type": "transposed_convolution", "channels": 4, "kernel": 4, "stride": 2},
    {"type": "activation", "function": "tanh"},
    {"type": "unpool", "of": "pool"},
]


def network(spec: Any, shape: Shape, targets: tuple[Any, ...], *, kind: str = "image", seed: int = 0, regularizers: Any = ()) -> Network:
    widths = tuple(3 if target.task == "classification" else math.prod(shape) for target in targets)
    scales = [Scale(torch.zeros(1), torch.ones(1)) for _ in targets]
    plain = Normalize(torch.zeros(1), torch.ones(1))
    return Network(NetworkSpec(spec, shape, targets, widths, regularizers, kind=kind), plain, scales, torch.Generator().manual_seed(seed))


BOTH = (Classification(name="label"), Reconstruction(name="input"))


def test_shapes_are_those_that_are_computed() -> None:
    built = network(listed(*EVERYTHING), (8, 8), BOTH)
    trunk, seen = built.trunk, dict[str, Shape]()
    for name, step in trunk.named().items():
        step.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, tuple(out.shape[1:])))
    said = built(torch.randn(3, 8, 8))
    assert {name: out.shape for name, out in said.items()} == {"label": (3, 3), "input": (3, 64)}
    assert trunk.shapes() == {name: (*got[1:], got[0]) for name, got in seen.items()}
    described = built.describe()
    assert [layer.name for layer in described] == [*trunk.named(), "head.label", "head.input"]
    assert sum(layer.parameters for layer in described) == sum(p.numel() for p in built.parameters())
    assert {layer.name: layer.type for layer in described}["share.0"] == "share"
    assert built.spec.architecture.weights((8, 8), kind="image") == sum(p.numel() for p in trunk.parameters() if p.ndim > 1)
    assert trunk.features == 5
    assert trunk.activations() == {"activation.0": "relu", "activation.1": "relu", "activation.2": "tanh"}
    assert {site.name for site in trunk.sites} == {*trunk.activations(), "dropout.0", "dropout.1"}
    # 64 places and 16, the padding's zeros left out, are what the heads and convolutions do without sharing.
    assert built.sharing.saved_by_tying == 4 * 4 * 9 + 4
    assert built.products == 64 * 64 + 2 * 16 * 144 + 64 * 5 + 5 * 16 + 4 * 256 + 5 * 3 + 4


def test_units_before_and_behind_the_code_are_projected_and_heads_are_not() -> None:
    built = network(listed(*EVERYTHING, convolution(2, name="behind")), (8, 8), BOTH).eval()
    assert convolutions(built) == {"first": 4, "inner": 4, "behind": 2}
    for layer in convolutions(built):
        _, found = project(built, layer, torch.rand(2, 8, 8), torch.tensor([[0, 1], [1, 0]]))
        assert found.shape == (2, 2, 8, 8)
        assert found.isfinite().all()


@pytest.mark.parametrize(
    "layers", [[{"type": "flatten"}, linear(4, name="code")], [convolution(2, name="code"), RELU, {"type": "flatten"}, linear(7)]]
)
def test_the_way_back_may_end_with_features(layers: list[dict[str, Any]]) -> None:
    spec = listed(*layers)
    assert not list(spec.fits((4, 5, 3), kind="image"))
    assert network(spec, (4, 5, 3), BOTH)(torch.randn(2, 4, 5, 3))["input"].shape == (2, 60)


def test_leading_axes_are_rows() -> None:
    built = network(listed(*EVERYTHING), (8, 8), BOTH).double().eval()
    x = draw(2, 3, 8, 8)
    for name, both in built(x).items():
        torch.testing.assert_close(both, torch.stack([built(own)[name] for own in x]), rtol=1e-12, atol=1e-12)
    masks = {"dropout.0": draw(2, 1, 4).abs(), "dropout.1": draw(2, 1, 64).abs()}
    together = built(x[0], Replayed(masks))
    for name, found in together.items():
        each = [built(x[0], Replayed({site: mask[i] for site, mask in masks.items()}))[name] for i in range(2)]
        torch.testing.assert_close(found, torch.stack(each), rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    """Against finite differences, along a random direction of all parameters at once."""
    built = network(listed(*EVERYTHING), (8, 8), BOTH).double().train()
    x, parameters = draw(4, 8, 8), list(built.parameters())
    steps = [draw(*parameter.shape, seed=i) for i, parameter in enumerate(parameters)]

    def value() -> Tensor:
        return torch.stack([(out * draw(*out.shape, seed=5)).sum() for out in built(x).values()]).sum()

    slopes = torch.autograd.grad(value(), parameters)
    expected = float(sum((slope * step).sum() for slope, step in zip(slopes, steps, strict=True)))

    @torch.no_grad()
    def at(h: float) -> float:
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.add_(step, alpha=h)
        found = float(value())
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.add_(step, alpha=-h)
        return found

    h = 1e-7
    assert (at(h) - at(-h)) / (2 * h) == pytest.approx(expected, rel=1e-4)


def test_members_side_by_side_are_the_members() -> None:
    spec = listed(NORM, linear(6), {"type": "layer_norm"}, RELU, {"type": "residual", "layers": [linear(6, name="in"), RELU]},
                  {"type": "share", "as": "in"}, {"type": "reshape", "shape": [3, 2]}, {"type": "average_pool"})  # fmt: skip
    members = [network(spec, (5,), BOTH[:1], kind="table", seed=seed) for seed in range(3)]
    for i, member in enumerate(members):
        for parameter in member.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    assert stackable(members[0])
    whole, x = stack(members), torch.randn(4, 5)
    for rows, own in ((x, [x] * 3), (torch.stack([x, 2 * x, 3 * x]), [x, 2 * x, 3 * x])):
        for training in (False, True):
            expected = torch.stack([member.train(training)(each)["label"] for member, each in zip(members, own, strict=True)])
            torch.testing.assert_close(whole.train(training)(rows)["label"], expected, rtol=1e-5, atol=1e-6)
    assert whole.sharing == members[0].sharing


def test_what_sharing_saves() -> None:
    """A matrix has an entry for each place that a window has an input at: 22 of 8 places and 10 of 4 for kernels of 3."""
    plain, up = network(listed(linear(4), linear(4)), (9,), BOTH[:1], kind="table"), 2 * 3 * 4**2
    assert plain.sharing == (0, sum(p.numel() for p in plain.parameters()), 0)
    inside = 22**2 * 3 + 10**2 * 3 * 5
    found = network(CNN(channels=(3, 5)), (8, 8), BOTH[:1]).sharing
    assert (found.saved_by_tying, found.saved_by_sharing) == (0, inside - 3 * 9 - 15 * 9)
    coder = ConvAutoencoder(channels=(2, 3), kernel=4, tied=True)
    tied = network(coder, (8, 8), BOTH[1:]).sharing  # windows of 4 by steps of 2: 14 entries of 8 places, 6 of 4
    assert tied.saved_by_tying == 2 * 16 + up
    assert tied.saved_by_sharing == 2 * (2 * 14**2 + 6 * 6**2) - 2 * 16 - up
    states = network(Recurrent(cell="gru", hidden=(4,)), (7, 3), BOTH[:1], kind="tensor").sharing
    assert states.saved_by_sharing == 6 * 3 * 4 * (3 + 4)


def test_gates_close_the_inputs_of_a_linear_layer_at_each_of_its_uses() -> None:
    """Norms have no inputs to close; published weights have the gates in them."""
    spec = listed({"type": "layer_norm"}, linear(5, name="a"), RELU, {"type": "share", "as": "a"})
    gated = network(spec, (5,), BOTH[:1], kind="table", regularizers=(L0(alpha=0.1),)).eval()
    logits = {name: p for name, p in gated.named_parameters() if name.endswith("log_alpha")}
    assert list(logits) == ["trunk.layer.1.linear.log_alpha", "heads.0.log_alpha"]
    logits["trunk.layer.1.linear.log_alpha"].data.copy_(torch.tensor([9.0, -9, 9, -9, 0]))
    (plain,), cut = pruned([gated])
    x = torch.randn(4, 5)
    assert cut is None
    torch.testing.assert_close(plain.eval()(x)["label"], gated(x)["label"], rtol=1e-6, atol=1e-6)
    weight = plain.get_parameter("trunk.layer.1.linear.weight")
    assert (weight[:, [1, 3]] == 0).all()
    assert weight[:, [0, 2, 4]].all()


@pytest.mark.parametrize("last", [[], [linear(3, name="after")]])
def test_weights_in_the_textbooks_convention_read_what_is_dropped(last: list[dict[str, Any]]) -> None:
    rates = {"type": "dropout", "rate": [0.5, 0.25, 0.0, 0.5]}
    built = network(listed(linear(4), RELU, rates, *last), (5,), BOTH[:1], kind="table")
    (found,) = kept(built).items()
    assert found[0] == ("trunk.layer.3.linear.weight" if last else "heads.0.weight")
    assert found[1].tolist() == [0.5, 0.75, 1.0, 0.5]
    bridged = listed({"type": "residual", "layers": [linear(5), {"type": "dropout", "rate": 0.5}]}, linear(3))
    with pytest.raises(NotFound):
        kept(network(bridged, (5,), BOTH[:1], kind="table"))


def test_names_are_given_and_rates_are_changed_inside_bridges() -> None:
    dropout = {"type": "dropout", "rate": 0.2}
    spec = listed(linear(6), dropout, {"type": "residual", "layers": [linear(6), dropout]}, NORM)
    shown = spec.dump()["layers"]
    assert [layer["name"] for layer in shown] == ["linear.0", "dropout.0", "residual.0", "batch_norm.0"]
    assert [layer["name"] for layer in shown[2]["layers"]] == ["linear.1", "dropout.1"]
    assert Sequential.model_validate(spec.dump()) == spec
    assert (spec.drops, spec.shifts, spec.bridged, spec.normalizes, spec.droppable, spec.evenly) == (True, True, True, True, 2, True)
    sites = [site.rate for site in spec.dropping(0.0).build((3,), None).sites]
    assert sites == [0.0, 0.0]
    assert not spec.dropping(0.0).shifts
    assert not listed(dropout, {**dropout, "rate": 0.5}).evenly
    assert not listed(NORM, dropout).shifts


FLAWED: list[tuple[list[dict[str, Any]], Shape, str, list[str]]] = [
    ([convolution(4), linear(3)], (8, 8), "/layers/1", ["[8, 8, 4]", "[256]"]),
    ([convolution(4)], (9,), "/layers/0", ["[9]"]),
    ([convolution(4, kernel=9, padding=0)], (8, 8, 3), "/layers/0/kernel", ["[8, 8, 3]", "9"]),
    ([convolution(4), convolution(6, groups=3)], (8, 8), "/layers/1/groups", ["4", "3"]),
    ([{"type": "max_pool", "kernel": 5}], (4, 9, 3), "/layers/0/kernel", ["[4, 9, 3]"]),
    ([{"type": "reshape", "shape": [5, 2]}], (9,), "/layers/0/shape", ["[5, 2]", "10", "[9]"]),
    ([linear(9), {"type": "residual", "layers": [RELU, linear(8)]}], (9,), "/layers/1", ["[8]", "[9]"]),
    ([{"type": "residual", "layers": [RELU, convolution(2)]}], (9,), "/layers/0/layers/1", ["[9]"]),
    ([{"type": "residual", "layers": [linear(8)], "shortcut": [convolution(8)]}], (9,), "/layers/0/shortcut/0", ["[9]"]),
    ([{"type": "max_pool"}, convolution(4), {"type": "unpool", "of": "max_pool.0"}], (8, 8), "/layers/2/of", ["[4, 4, 1]", "[4, 4, 4]"]),
    ([linear(9, name="a"), linear(4), {"type": "share", "as": "a"}], (9,), "/layers/2/as", ["[9]", "[4]"]),
    ([{"type": "transposed_convolution", "channels": 2, "stride": 2, "size": [7, 8]}], (3, 4, 1), "/layers/0/size",
     ["[7, 8]", "[4, 4]", "[3, 4]"]),
    ([{"type": "transposed_convolution", "channels": 2, "size": [7]}], (7, 4, 1), "/layers/0/size", ["[7]"]),
    ([{"type": "transposed_convolution", "channels": 2, "padding": 9}], (3, 4, 1), "/layers/0", ["[3, 4]"]),
    ([{"type": "dropout", "rate": [0.1, 0.2]}], (9,), "/layers/0/rate", ["2", "9"]),
    ([{"type": "dropout", "rate": 0.1, "channel": True}], (9,), "/layers/0", ["[9]"]),
    ([linear(4, name="code"), linear(3), {"type": "reshape", "shape": [3, 1]}], (9,), "/layers/2", ["[3, 1]", "[9]"]),
    ([convolution(4, stride=2, name="code")], (8, 8), "/layers/0", ["[4, 4, 4]", "[8, 8, 1]"]),
    ([NORM], (2, 2, 2, 2), "/layers/0", ["[2, 2, 2, 2]"]),
    ([{"type": "transposed_convolution", "channels": 9, "stride": 16}] * 12, (8, 8), "/layers/2", ["[32768, 32768, 9]", "numbers"]),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "shape", "pointer", "words"), FLAWED)
def test_what_does_not_fit_is_said_with_its_place_and_both_shapes(
    layers: list[dict[str, Any]], shape: Shape, pointer: str, words: list[str]
) -> None:
    (flaw,) = listed(*layers).fits(shape, kind="table" if len(shape) == 1 else "image" if len(shape) < 4 else "tensor")
    assert flaw.pointer == pointer
    assert all(word in flaw.message for word in words), flaw.message


@pytest.mark.parametrize(
    ("layers", "pointer", "code"),
    [
        ([linear(4, name="a"), linear(4, name="a")], "/layers/1/name", "inconsistent-spec"),
        ([{"type": "residual", "layers": [linear(4), linear(4, name="linear.0")]}], "/layers/0/layers/1/name", "inconsistent-spec"),
        ([{"type": "unpool", "of": "max_pool.0"}, {"type": "max_pool"}], "/layers/0/of", "inconsistent-spec"),
        ([linear(4), {"type": "unpool", "of": "linear.0"}], "/layers/1/of", "inconsistent-spec"),
        ([RELU, {"type": "share", "as": "activation.0"}], "/layers/1/as", "inconsistent-spec"),
        ([{"type": "residual", "layers": [linear(4, name="code")]}], "/layers/0/layers/0/name", "inconsistent-spec"),
        ([linear(4, name="head.a")], "/layers/0/name", "invalid-name"),
        ([linear(4, name="a*")], "/layers/0/name", "invalid-name"),
        ([{"type": "residual", "layers": [linear(4), {"type": "share"}]}], "/layers/0/layers/1/as", "missing-field"),
        ([{"type": "residual", "layers": [{"type": "linear", "width": 0}]}], "/layers/0/layers/0/width", "value-out-of-range"),
        ([{"type": "linear", "widht": 4, "width": 3}], "/layers/0/widht", "unknown-field"),
        ([{"type": "dense", "width": 4}], "/layers/0/type", "unknown-choice"),
        ([{"width": 4}], "/layers/0/type", "missing-field"),
        ([RELU] * 257, "/layers", "value-out-of-range"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(layers: list[dict[str, Any]], pointer: str, code: str) -> None:
    sent = {"type": "layers", "layers": layers}
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Architecture).validate_python(sent)
    assert [(flaw.pointer, flaw.code) for flaw in flaws_of(refused.value, sent, model=Architecture)] == [(pointer, code)]


def test_layers_inside_bridges_count_too() -> None:
    """Lists within lists would else hold as many as a body has room for, and take an API process minutes."""
    bridge = {"type": "residual", "layers": [RELU] * 255}
    assert len(list(every(listed(*[bridge] * 4).layers))) == MOST_LAYERS
    with pytest.raises(ValidationError) as found:
        listed(*[bridge] * 4, RELU)
    (flaw,) = flaws_of(found.value, {"layers": [*[bridge] * 4, RELU]}, model=Sequential)
    assert (flaw.pointer, flaw.code) == ("/layers", "value-out-of-range")
    assert "1025 layers" in flaw.message


def test_a_kernel_that_its_step_does_not_divide_is_warned_of() -> None:
    up = {"type": "transposed_convolution", "channels": 4, "stride": 2}
    (flaw,) = listed({"type": "residual", "layers": [up]}, {**up, "kernel": 4}).cautions()
    assert (flaw.pointer, flaw.code) == ("/layers/0/layers/0/kernel", "checkerboard")
