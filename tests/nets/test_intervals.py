"""Interval bounds: they hold what a box of rows becomes, no less of it for one affine layer, and nothing else for a box of one row."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from service.nets import Architecture, bounds
from service.nets.base import LayerNorm
from service.nets.convolution import Kernel
from service.nets.intervals import DIPS, Interval, Unbounded
from service.nets.network import Network, NetworkSpec, Scale, stack, stackable
from service.nets.upsampling import max_pool, unpool
from service.tricks.multitask import Classification, Reconstruction, Regression
from service.tricks.normalization import Normalize

EACH = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity")
IMAGE, TABLE, SEQUENCE = ((8, 8, 2), "image"), ((6,), "table"), ((8, 3), "tensor")
LINEAR, RELU, POOL = {"type": "linear", "width": 7}, {"type": "activation"}, {"type": "max_pool"}
CONVOLUTION, UP = {"type": "convolution", "channels": 4}, {"type": "transposed_convolution", "channels": 4, "stride": 2}
NETS: list[tuple[dict[str, Any], tuple[tuple[int, ...], str]]] = [
    *(({"type": "mlp", "hidden": [9, 7], "activation": name}, TABLE) for name in EACH),
    ({"type": "mlp", "hidden": []}, TABLE),
    ({"type": "mlp", "hidden": [8, 8, 8], "batch_norm": True, "residual": True, "logit_scale": 3.0}, TABLE),
    ({"type": "cnn", "channels": [4, 6], "hidden": [10], "batch_norm": True}, IMAGE),
    ({"type": "cnn", "channels": [4], "kernel": 4, "stride": 2, "pool": "average", "hidden": [], "activation": "silu"}, IMAGE),
    ({"type": "cnn", "channels": [4, 5], "pool": "none", "hidden": [6]}, SEQUENCE),
    *(({"type": "resnet", "depth": 11 if block == "bottleneck" else 8, "width": 4, "block": block}, IMAGE)
      for block in ("basic", "bottleneck", "preactivation")),
    *(({"type": "recurrent", "cell": cell, "hidden": [5, 4]}, SEQUENCE) for cell in ("lstm", "gru", "rnn")),
    ({"type": "recurrent", "cell": "gru", "hidden": [4], "bidirectional": True}, SEQUENCE),
    ({"type": "autoencoder", "hidden": [7], "code": 4, "tied": True, "activation": "elu"}, TABLE),
    ({"type": "conv_autoencoder", "channels": [4], "code": 5, "upsampling": "unpooling"}, IMAGE),
    ({"type": "layers", "layers": [LINEAR, {"type": "layer_norm"}, RELU, LINEAR]}, TABLE),
    ({"type": "layers", "layers": [CONVOLUTION, {"type": "layer_norm"}, RELU, POOL, CONVOLUTION]}, IMAGE),
    *(({"type": "layers", "layers": [CONVOLUTION, pool, CONVOLUTION, {"type": "unpool", "of": f"{pool['type']}.0"}, CONVOLUTION]}, of)
      for pool, of in ((POOL, IMAGE), ({**POOL, "kernel": 2, "stride": 3}, SEQUENCE), ({"type": "average_pool"}, IMAGE))),
    *(({"type": "layers", "layers": [UP | {"kernel": kernel}, RELU, UP | {"kernel": kernel + 1, "groups": 2}]}, of)
      for kernel, of in ((2, IMAGE), (3, SEQUENCE))),
]  # fmt: skip
COUNT = 334
"""Points of each of three boxes."""
TARGETS = (Classification(name="kind"), Regression(name="size", output="tanh"))


def made(fields: dict[str, Any], of: tuple[tuple[int, ...], str], seed: int = 0) -> Network:
    """A network in float64 with running statistics that are not 0 and 1."""
    shape, kind = of
    drawing: Any = TypeAdapter[Any](Architecture).validate_python(fields)
    spec = NetworkSpec(drawing, shape, TARGETS, (4, 2), kind=kind)
    scales = [Scale(torch.zeros(1), torch.ones(1)), Scale(torch.zeros(2), torch.ones(2))]
    generator = torch.Generator().manual_seed(seed)
    network = Network(spec, Normalize(torch.full((1,), 0.3), torch.full((1,), 0.7)), scales, generator)
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.add_(torch.rand(buffer.shape, generator=generator) - 0.5)
    return network.double().eval().requires_grad_(False)


def rows(of: tuple[tuple[int, ...], str], count: int = 3) -> Tensor:
    return torch.rand(count, *of[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def points(x: Tensor, epsilon: float, count: int) -> Tensor:
    """Random points [count, N, ...] of the boxes around rows: inside, and half of them in corners."""
    draws = torch.rand(count, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    draws[::2] = draws[::2].sign()
    return x + epsilon * draws


@pytest.mark.parametrize(("fields", "of"), NETS, ids=lambda part: " ".join(map(str, part.values())) if isinstance(part, dict) else part[1])
def test_bounds_hold_a_thousand_random_points(fields: dict[str, Any], of: tuple[tuple[int, ...], str]) -> None:
    network, x, epsilon = made(fields, of), rows(of), 0.05
    box = Interval(x, torch.full_like(x, epsilon))
    found, labels = bounds.bounds(network, box), torch.tensor([0, 3, 1])
    said = network(points(x, epsilon, COUNT).flatten(0, 1))
    for target in TARGETS:
        outputs = said[target.name].unflatten(0, (COUNT, 3))
        assert bool((outputs >= found[target.name].low - 1e-9).all()), target.name
        assert bool((outputs <= found[target.name].high + 1e-9).all()), target.name
    least = bounds.margins(network, TARGETS[0], bounds.features(network, box), labels)
    logits = said["kind"].unflatten(0, (COUNT, 3))
    own = logits.gather(-1, labels.view(1, 3, 1).expand(COUNT, 3, 1))
    assert bool((own - logits >= least - 1e-9).all())
    assert float(logits.std(0).min()) > 0, "the points differ, and so does what is said of them"


@pytest.mark.parametrize(
    ("fields", "of"), [*NETS[:19:3], *NETS[19:]], ids=lambda part: " ".join(map(str, part.values())) if isinstance(part, dict) else ""
)
def test_a_box_of_one_row_gives_its_outputs(fields: dict[str, Any], of: tuple[tuple[int, ...], str]) -> None:
    network, x = made(fields, of), rows(of)
    found, said = bounds.bounds(network, Interval(x, torch.zeros_like(x))), network(x)
    for name, box in found.items():
        assert torch.equal(box.low, box.high)
        # Recurrent cells are written out, so that they round in another order.
        exact = 0.0 if fields["type"] != "recurrent" else 1e-14
        torch.testing.assert_close(box.low, said[name], rtol=0, atol=exact)


def test_of_a_linear_model_the_bounds_are_exact() -> None:
    """Some corner of the box has every output's end, and of every difference of classes, with the last layer elided."""
    network, x, epsilon = made({"type": "mlp", "hidden": []}, TABLE), rows(TABLE), 0.2
    box = Interval(x, torch.full_like(x, epsilon))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6)
    said = network((x + epsilon * signs.unsqueeze(1)).flatten(0, 1))["kind"].unflatten(0, (64, 3))
    found = bounds.bounds(network, box)["kind"]
    torch.testing.assert_close(found.low, said.amin(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.high, said.amax(0), rtol=0, atol=1e-12)
    labels = torch.tensor([0, 3, 1])
    own = said.gather(-1, labels.view(1, 3, 1).expand(64, 3, 1))
    least = bounds.margins(network, TARGETS[0], bounds.features(network, box), labels)
    torch.testing.assert_close(least, (own - said).amin(0), rtol=0, atol=1e-12)
    apart = found.low.gather(-1, labels.unsqueeze(-1)) - found.high
    assert bool((least > apart + 1e-6).any()), "both logits bounded apart are worse"


def test_margins_of_all_pairs_are_those_of_each_label() -> None:
    network, x = made({"type": "mlp", "hidden": [5]}, TABLE), rows(TABLE)
    read = bounds.features(network, Interval(x, torch.full_like(x, 0.1)))
    pairs = bounds.pairwise(network, TARGETS[0], read)
    for k in range(4):
        torch.testing.assert_close(pairs[:, k], bounds.margins(network, TARGETS[0], read, torch.full((3,), k)))


def test_the_worst_outputs_are_worse_than_any_point() -> None:
    network, x, epsilon = made({"type": "mlp", "hidden": [9, 7]}, TABLE), rows(TABLE), 0.05
    labels = {"kind": torch.tensor([2, 0, -1]), "size": torch.tensor([[0.1, -0.9], [0.0, 0.0], [2.0, 0.3]], dtype=torch.float64)}
    found = bounds.worst(network, Interval(x, torch.full_like(x, epsilon)), labels)
    said = network(points(x, epsilon, 500).flatten(0, 1))
    entropy = F.cross_entropy(said["kind"], labels["kind"].clamp(min=0).repeat(500), reduction="none").view(500, 3)
    assert bool((F.cross_entropy(found["kind"], labels["kind"].clamp(min=0), reduction="none") >= entropy.amax(0)).all())
    errors = (said["size"].unflatten(0, (500, 3)) - labels["size"]).abs().amax(0)
    assert bool(((found["size"] - labels["size"]).abs() >= errors - 1e-9).all())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_members_side_by_side_have_each_ones_bounds(batch_norm: bool) -> None:
    members = [made({"type": "mlp", "hidden": [5, 5], "batch_norm": batch_norm}, TABLE, seed) for seed in range(3)]
    assert stackable(members[0])
    whole, x = stack(members).eval(), rows(TABLE)
    box = Interval(x, torch.full_like(x, 0.1))
    for rows_of in (box, Interval(x.expand(3, -1, -1), box.radius.expand(3, -1, -1))):
        found = bounds.bounds(whole, rows_of)["kind"]
        labels = torch.tensor([0, 3, 1]).expand(3, 3)
        least = bounds.margins(whole, TARGETS[0], bounds.features(whole, rows_of), labels)
        for place, member in enumerate(members):
            own = bounds.bounds(member, box)["kind"]
            torch.testing.assert_close(found.low[place], own.low)
            torch.testing.assert_close(found.high[place], own.high)
            torch.testing.assert_close(least[place], bounds.margins(member, TARGETS[0], bounds.features(member, box), labels[0]))


@pytest.mark.parametrize("function", DIPS)
def test_functions_with_a_dip_are_bounded_where_they_dip(function: Any) -> None:
    x = torch.linspace(-6, 3, 9001, dtype=torch.float64)
    least = DIPS[function][1]
    assert float(function(x).min()) - 1e-6 < least <= float(function(x).min())
    low, width = torch.meshgrid(
        torch.linspace(-6, 2, 33, dtype=torch.float64), torch.linspace(0, 5, 21, dtype=torch.float64), indexing="ij"
    )
    box = Interval.between(low, low + width)
    found = function(box)
    inside = low.unsqueeze(-1) + width.unsqueeze(-1) * torch.linspace(0, 1, 201, dtype=torch.float64)
    assert bool((function(inside) >= found.low.unsqueeze(-1) - 1e-9).all())
    assert bool((function(inside) <= found.high.unsqueeze(-1) + 1e-9).all())
    assert float((function(inside).amin(-1) - found.low).max()) < 1e-3, "and no lower than they go"


def test_what_has_no_interval_is_said() -> None:
    box = Interval(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(Unbounded, match="softmax"):
        F.softmax(box, dim=-1)
    with pytest.raises(Unbounded, match="cumsum"):
        box.cumsum(0)
    with pytest.raises(Unbounded, match="batch"):
        network = made({"type": "mlp", "hidden": [4], "batch_norm": True}, TABLE).train().requires_grad_(True)
        bounds.bounds(network, Interval(rows(TABLE), rows(TABLE)))


def test_products_of_boxes_take_the_extreme_corners() -> None:
    one = Interval.between(torch.tensor([-1.0, 2.0]), torch.tensor([2.0, 3.0]))
    two = Interval.between(torch.tensor([-5.0, -1.0]), torch.tensor([1.0, 4.0]))
    found = one * two
    assert found.low.tolist() == [-10.0, -3.0]
    assert found.high.tolist() == [5.0, 12.0]


@pytest.mark.parametrize("width", [1e-6, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("features", [1, 2, 3, 17])
def test_layer_norm_holds_points_and_is_near_them(features: int, width: float) -> None:
    """Also where a box holds rows whose features are all the same, of variance 0."""
    x = torch.randn(5, features, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0], radius = 0.0, width * torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    radius[1, : features // 2] = 0.0
    draws = torch.rand(4000, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    draws[::2] = draws[::2].sign()
    said, found = F.layer_norm(x + radius * draws, (features,)), F.layer_norm(Interval(x, radius), (features,))
    assert bool((said >= found.low - 1e-9).all())
    assert bool((said <= found.high + 1e-9).all())
    assert bool((found.center.abs() + found.radius <= (features - 1) ** 0.5 + 1e-9).all()), "no number is further from the mean"
    if width == 1e-6 and features > 3:
        spread = said[:, 2:].amax(0) - said[:, 2:].amin(0)
        assert bool((2 * found.radius[2:] <= 3 * spread + 1e-9).all()), "bounds of small boxes are not much wider than what they hold"


def test_gains_of_layer_norm_may_be_negative_and_differ_by_member() -> None:
    x, gains = rows(TABLE), torch.tensor([[1.0, -2.0, 0.0, 3.0, -1.0, 1.0], [-1.0] * 6], dtype=torch.float64)
    norm = LayerNorm(6).double()
    norm.weight, norm.bias = torch.nn.Parameter(gains), torch.nn.Parameter(gains + 1)
    found, said = norm(Interval(x, torch.full_like(x, 0.1))), norm(points(x, 0.1, 500).transpose(0, 1).flatten(0, 1))
    said = said.unflatten(1, (3, 500))
    assert bool((said >= found.low.unsqueeze(2) - 1e-9).all())
    assert bool((said <= found.high.unsqueeze(2) + 1e-9).all())


@pytest.mark.parametrize(("extents", "extent", "stride"), [((6, 7), 2, 2), ((7, 5), 2, 3), ((9,), 3, 3), ((8,), 2, 3)])
def test_unpooling_holds_points_wherever_their_maxima_are(extents: tuple[int, ...], extent: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, window, axes = torch.randn(2, 3, *extents, generator=generator, dtype=torch.float64), Kernel(extent, stride, padding=0), len(extents)
    x[0, 0] = 0.0  # of entries that are all equal pooling takes one
    radius = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 0.8
    radius[0] = 0.0
    values, where = max_pool(Interval(x, radius), axes, window)
    found = unpool(values + torch.tensor(-1.0), where, extents)
    draws = torch.rand(1000, *x.shape, generator=generator, dtype=torch.float64) * 2 - 1
    pooled, places = max_pool(x + radius * draws, axes, window)
    said = unpool(pooled - 1.0, places, extents)
    assert bool((said >= found.low - 1e-9).all())
    assert bool((said <= found.high + 1e-9).all())
    torch.testing.assert_close(found.low[0], said[0, 0], rtol=0, atol=0)
    assert torch.equal(found.low[0], found.high[0])
    sure = (said != 0).all(0)
    assert bool((found.low[sure] < found.high[sure]).any()), "and places where the maximum always is are known"
    assert bool((found.high[(said == 0).all(0) & (found.low == found.high)] == 0).all())


@pytest.mark.parametrize("upsampling", ["unpooling", "transposed_convolution"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_reconstructions_are_bounded(upsampling: str, kernel: int) -> None:
    drawing: Any = TypeAdapter[Any](Architecture).validate_python(
        {"type": "conv_autoencoder", "channels": [3, 4], "kernel": kernel, "code": 5, "upsampling": upsampling}
    )
    spec, of = NetworkSpec(drawing, IMAGE[0], (Reconstruction(name="input"),), (128,), kind="image"), IMAGE
    scale, norm = Scale(torch.zeros(128), torch.ones(128)), Normalize(torch.zeros(1), torch.ones(1))
    network = Network(spec, norm, [scale], torch.Generator().manual_seed(0)).double().eval().requires_grad_(False)
    x = rows(of)
    found = bounds.bounds(network, Interval(x, torch.full_like(x, 0.05)))["input"]
    said = network(points(x, 0.05, COUNT).flatten(0, 1))["input"].unflatten(0, (COUNT, 3))
    assert bool((said >= found.low - 1e-9).all())
    assert bool((said <= found.high + 1e-9).all())
    still = bounds.bounds(network, Interval(x, torch.zeros_like(x)))["input"]
    torch.testing.assert_close(still.low, network(x)["input"], rtol=0, atol=0)
    assert torch.equal(still.low, still.high)
