"""Convolutions against their matrices, and the networks of the lecture that are made of them."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.nets.cnn import CNN
from service.nets.convolution import Kernel, Space, Start, convolution, extents_after, toeplitz_entries
from service.nets.resnet import Block, ResNet
from service.tricks.dropout import SCALED, Dropout, Sampled, Site

DOUBLE = {"dtype": torch.float64}


def start(axes: int = 2) -> Start:
    return Start(axes, "torch", torch.Generator().manual_seed(0))


def matrix(layer: nn.Module, channels: int, extents: tuple[int, ...]) -> Tensor:
    """The matrix of a linear layer over space, column by column."""
    size = channels * math.prod(extents)
    return layer(torch.eye(size, **DOUBLE).view(size, channels, *extents)).flatten(1).T


@pytest.mark.parametrize("extents", [(7,), (8,), (5, 6)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_is_its_toeplitz_matrix(extents: tuple[int, ...], kernel: int, stride: int) -> None:
    layer = convolution(start(len(extents)), 2, 3, Kernel(kernel, stride), bias=False).double()
    x = torch.randn(4, 2, *extents, generator=torch.Generator().manual_seed(1), **DOUBLE)
    toeplitz = matrix(layer, 2, extents)
    after = extents_after(extents, Kernel(kernel, stride))
    assert layer(x).shape == (4, 3, *after)
    torch.testing.assert_close(layer(x).flatten(1), x.flatten(1) @ toeplitz.T, rtol=1e-12, atol=1e-12)
    entries = toeplitz_entries(3 * 2 * kernel ** len(extents), Kernel(kernel, stride), extents, after)
    assert entries == int((toeplitz != 0).sum())
    if stride == 1:
        assert after == extents, "stride 1 keeps the extents, for even kernels too"


def test_a_convolution_of_a_moved_image_is_the_moved_one_inside() -> None:
    layer = convolution(start(), 1, 4, Kernel(3), bias=True).double()
    x = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(1), **DOUBLE)
    moved, found = layer(x.roll((1, 2), dims=(2, 3))), layer(x).roll((1, 2), dims=(2, 3))
    torch.testing.assert_close(moved[..., 4:-4, 4:-4], found[..., 4:-4, 4:-4], rtol=1e-12, atol=1e-12)


NETS: list[tuple[Any, tuple[int, ...], str]] = [
    (CNN(channels=(4, 6), hidden=(8,)), (9, 8), "image"),
    (CNN(channels=(4, 6), kernel=4, stride=2, pool="none", batch_norm=True, hidden=(8, 5)), (9, 8, 3), "image"),
    (CNN(channels=(4,), pool="average", activation="tanh", hidden=()), (20, 5), "tensor"),
    (ResNet(depth=8, width=4), (9, 8, 3), "image"),
    (ResNet(depth=8, width=4, block="preactivation"), (9, 8), "image"),
    (ResNet(depth=11, width=4, block="bottleneck"), (8, 8, 1), "image"),
    (ResNet(depth=8, width=4, zero_init=True), (20, 5), "tensor"),
]


def built(spec: Any, shape: tuple[int, ...], kind: str) -> Any:
    return spec.build(shape, torch.Generator().manual_seed(0), kind=kind)


@pytest.mark.parametrize(("spec", "shape", "kind"), NETS)
def test_shapes_and_counts_are_what_was_said(spec: Any, shape: tuple[int, ...], kind: str) -> None:
    trunk = built(spec, shape, kind)
    assert not list(spec.fits(shape, kind=kind))
    seen: dict[str, tuple[int, ...]] = {}
    axes = Space(shape, kind).axes
    for name, layer in trunk.linears().items():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, tuple(out.shape[1:])))
    features = trunk(torch.randn(3, *shape), SCALED)
    assert features.shape == (3, trunk.features)
    last = {name: (*got[1:], got[0]) if len(got) == axes + 1 else got for name, got in seen.items()}
    assert trunk.shapes() == last, "channels are the last axis, as in data"
    assert spec.weights(shape, kind=kind) == sum(p.numel() for p in trunk.parameters() if p.ndim > 1)
    assert trunk.activations().keys() <= {site.name for site in trunk.sites}


@pytest.mark.parametrize(("spec", "shape", "kind"), NETS)
def test_leading_axes_are_rows(spec: Any, shape: tuple[int, ...], kind: str) -> None:
    trunk = built(spec, shape, kind).double().eval()
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1), **DOUBLE)
    torch.testing.assert_close(trunk(x, SCALED), torch.stack([trunk(own, SCALED) for own in x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("spec", "shape", "kind"), NETS)
def test_gradients(spec: Any, shape: tuple[int, ...], kind: str) -> None:
    """Against finite differences, along a random direction of all parameters at once."""
    trunk = built(spec, shape, kind).double().train()
    generator = torch.Generator().manual_seed(2)
    x, along = torch.randn(4, *shape, generator=generator, **DOUBLE), torch.randn(4, trunk.features, generator=generator, **DOUBLE)
    for parameter in trunk.parameters():  # no kink of a ReLU at exactly zero
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator, **DOUBLE)
    steps = [torch.randn(parameter.shape, generator=generator, **DOUBLE) for parameter in trunk.parameters()]
    value = (trunk(x, SCALED) * along).sum()
    slopes = torch.autograd.grad(value, list(trunk.parameters()))
    expected = float(sum((slope * step).sum() for slope, step in zip(slopes, steps, strict=True)))

    def at(h: float) -> float:
        with torch.no_grad():
            for parameter, step in zip(trunk.parameters(), steps, strict=True):
                parameter.add_(step, alpha=h)
            found = float((trunk(x, SCALED) * along).sum())
            for parameter, step in zip(trunk.parameters(), steps, strict=True):
                parameter.add_(step, alpha=-h)
        return found

    h = 1e-7
    assert (at(h) - at(-h)) / (2 * h) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("spec", "shape", "kind"), NETS)
def test_channels_are_dropped_whole(spec: Any, shape: tuple[int, ...], kind: str) -> None:
    trunk = built(spec.model_copy(update={"dropout": Dropout(channel=0.5)}), shape, kind).train()
    drawn: list[tuple[str, Tensor]] = []

    class Noted(Sampled):
        def __call__(self, x: Tensor, site: Site) -> Tensor:
            found = super().__call__(x, site)
            drawn.append((site.name, found))
            return found

    with torch.no_grad():
        trunk(torch.randn(16, *shape), Noted([torch.Generator().manual_seed(0)], 16))
    channelled = [(name, mask) for name, mask in drawn if name in {site.name for site in trunk.channels}]
    assert [name for name, _ in channelled] == [site.name for site in trunk.channels]
    for (_, mask), site in zip(channelled, trunk.channels, strict=True):
        assert mask.shape == (16, site.units)
        assert set(mask.unique().tolist()) == {0.0, 2.0}


def test_resnet_20_has_the_published_parameters() -> None:
    trunk = built(ResNet(), (32, 32, 3), "image")
    assert sum(p.numel() for p in trunk.parameters()) + 64 * 10 + 10 == 269_722
    assert len(trunk.linears()) == 19


@pytest.mark.parametrize(("block", "depth"), [("basic", 20), ("preactivation", 20), ("bottleneck", 20)])
def test_twins_have_equally_many_parameters_and_weights(block: Any, depth: int) -> None:
    bridged, plain = (built(ResNet(depth=depth, block=block, residual=on, width=4), (8, 8, 3), "image") for on in (True, False))
    assert {name: p.shape for name, p in bridged.named_parameters()} == {name: p.shape for name, p in plain.named_parameters()}
    for (_, a), (_, b) in zip(bridged.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("block", "depth"), [("basic", 14), ("preactivation", 14), ("bottleneck", 20)])
def test_a_block_without_gain_is_the_identity_on_what_is_not_negative(block: Any, depth: int) -> None:
    trunk = built(ResNet(depth=depth, block=block, width=4, zero_init=True), (8, 8, 3), "image").train()
    last = trunk.blocks()[-1]
    assert isinstance(last, Block)
    x = torch.rand(5, last.conv[0].conv.in_channels, 4, 4)
    assert torch.equal(last(x), x)


def test_without_branches_the_jacobian_of_a_block_is_the_identity() -> None:
    block = built(ResNet(depth=8, width=2), (6, 6, 3), "image").double().eval().blocks()[0]
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 2, 3, 3, generator=torch.Generator().manual_seed(0), **DOUBLE) + 0.1
    slope = torch.autograd.functional.jacobian(block, x).view(18, 18)
    assert torch.equal(slope, torch.eye(18, **DOUBLE))


def test_where_the_shape_changes_the_bridge_takes_every_second_place_and_pads_with_zeros() -> None:
    trunk = built(ResNet(depth=8, width=4), (8, 8, 3), "image")
    block = trunk.blocks()[1]
    x = torch.randn(2, 4, 8, 8)
    found = block.bridge(x)
    assert torch.equal(found[:, :4], x[..., ::2, ::2])
    assert not found[:, 4:].any()
    assert found.shape == (2, 8, 4, 4)


def test_pooling_is_torchs() -> None:
    x = torch.randn(2, 8, 7, 3)
    for kind, expected in (("max", F.max_pool2d), ("average", F.avg_pool2d)):
        trunk = built(CNN(channels=(2,), pool=kind, hidden=()), (8, 7, 3), "image")
        stage = trunk.conv[0]
        before = stage.function(stage.conv(x.movedim(-1, 1)))
        assert torch.equal(stage(x.movedim(-1, 1)), expected(before, 2))


@pytest.mark.parametrize(
    ("spec", "shape", "kind", "pointer"),
    [
        (CNN(channels=(4,)), (12,), "table", "/type"),
        (CNN(channels=(4,)), (12,), "tensor", "/type"),
        (CNN(channels=(4,)), (3, 4, 5, 2), "tensor", "/type"),
        (CNN(channels=(4, 4, 4, 4)), (8, 8), "image", "/channels/3"),
        (ResNet(), (12,), "table", "/type"),
    ],
)
def test_rows_that_do_not_fit(spec: Any, shape: tuple[int, ...], kind: str, pointer: str) -> None:
    assert [flaw.pointer for flaw in spec.fits(shape, kind=kind)] == [pointer]


@pytest.mark.parametrize(("block", "depth", "near"), [("basic", 21, 20), ("bottleneck", 50, 47), ("preactivation", 9, 8)])
def test_a_depth_that_cannot_be_is_told_the_nearest(block: str, depth: int, near: int) -> None:
    with pytest.raises(ValueError, match=f"the nearest is {near}"):
        ResNet(block=block, depth=depth)
