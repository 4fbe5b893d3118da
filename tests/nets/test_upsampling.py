"""Transposed convolution and unpooling by what they are transposed of."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from service.nets.convolution import Kernel, Start, convolution, extents_after
from service.nets.upsampling import TransposedConvolution, checkerboard, max_pool, transposed, unpool

DOUBLE = {"dtype": torch.float64}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@torch.no_grad()
def convolved(x: Tensor, weight: Tensor, kernel: Kernel) -> Tensor:
    axes = weight.ndim - 2
    layer = convolution(Start(axes, "torch", None), weight.shape[1], weight.shape[0], kernel, bias=False).double()
    next(layer.parameters()).data = weight
    return layer(x)


def test_the_lectures_example_in_one_dimension() -> None:
    """W of a convolution of five places with (1, 2, 3), stride 2, no padding but what keeps the middle; y = W^T x."""
    weight, kernel = torch.tensor([[[1.0, 2.0, 3.0]]], **DOUBLE), Kernel(3, 2)
    matrix = torch.tensor([[2, 3, 0, 0, 0], [0, 1, 2, 3, 0], [0, 0, 0, 1, 2]], **DOUBLE)
    x = torch.tensor([[[1.0, 10.0, 100.0]]], **DOUBLE)
    assert torch.equal(convolved(torch.eye(5, **DOUBLE).unsqueeze(1), weight, kernel).squeeze(1).T, matrix)
    assert torch.equal(transposed(x, weight, kernel, (5,)).flatten(), matrix.T @ x.flatten())


@pytest.mark.parametrize("extents", [(5,), (6,), (11,), (5, 6), (7, 4), (8, 8)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_adjoint_and_transposed_matrix(extents: tuple[int, ...], size: int, stride: int) -> None:
    """<W x, y> = <x, W^T y>, and the matrix itself is the transposed one."""
    kernel, axes = Kernel(size, stride), len(extents)
    weight = draw(3, 2, *(size,) * axes)
    x, y = draw(4, 2, *extents, seed=1), draw(4, 3, *extents_after(extents, kernel), seed=2)
    back = transposed(y, weight, kernel, extents)
    assert back.shape == x.shape
    assert float((convolved(x, weight, kernel) * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-12)
    entries, places = 2 * math.prod(extents), y[0].numel()
    matrix = convolved(torch.eye(entries, **DOUBLE).view(entries, 2, *extents), weight, kernel).flatten(1).T
    columns = transposed(torch.eye(places, **DOUBLE).view(places, *y.shape[1:]), weight, kernel, extents).flatten(1).T
    torch.testing.assert_close(columns, matrix.T, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("padding", "dilation", "groups"), [(0, 1, 1), (1, 2, 1), (2, 1, 2), (1, 3, 2)])
@pytest.mark.parametrize("axes", [1, 2])
def test_torchs_transposed_convolution_is_the_adjoint_of_its_convolution(padding: int, dilation: int, groups: int, axes: int) -> None:
    """Over paddings, dilations and groups, which our layers do not ask for but its kernel promises."""
    down, up = (F.conv1d, F.conv_transpose1d) if axes == 1 else (F.conv2d, F.conv_transpose2d)
    weight = draw(4, 2 // groups * 1 if groups == 2 else 2, *(3,) * axes)
    x = draw(3, 2, *(9,) * axes, seed=1)
    told = {"stride": 2, "padding": padding, "dilation": dilation, "groups": groups}
    forward = down(x, weight, **told)
    y = draw(*forward.shape, seed=2)
    reached = (forward.shape[-1] - 1) * 2 - 2 * padding + dilation * 2 + 1
    back = up(y, weight, output_padding=9 - reached, **told)
    assert float((forward * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-12)


def test_a_tied_layer_has_the_gradients_of_both_uses() -> None:
    start = Start(2, "torch", torch.Generator().manual_seed(0))
    down = convolution(start, 2, 3, Kernel(3, 2), bias=True).double()
    x, target = draw(4, 2, 7, 7), draw(4, 2, 7, 7, seed=3)
    gradients = []
    for tied in (True, False):
        up = TransposedConvolution(start, down, Kernel(3, 2), tied=tied).double()
        up.bias.data.zero_()
        if up.weight is not None:
            up.weight.data = down.weight.detach().clone()
        down.zero_grad()
        ((up(down(x), (7, 7)) - target) ** 2).sum().backward()
        gradients.append((down.weight.grad.clone(), None if up.weight is None else up.weight.grad.clone()))
        assert sum(p.numel() for p in up.parameters()) == (2 if tied else 2 + 3 * 2 * 9)
        assert up.shared == (3 * 2 * 9 if tied else 0)
    (both, _), (first, second) = gradients
    torch.testing.assert_close(both, first + second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("extents", [(8,), (7,), (6, 8), (7, 5)])
def test_unpooling_is_the_transposed_jacobian_of_pooling(extents: tuple[int, ...]) -> None:
    axes = len(extents)
    x = draw(2, 3, *extents).requires_grad_(True)
    values, switches = max_pool(x, axes)
    assert torch.equal(values, F.max_pool1d(x, 2) if axes == 1 else F.max_pool2d(x, 2))
    y = draw(*values.shape, seed=1)
    (slope,) = torch.autograd.grad(values, x, y)
    assert torch.equal(unpool(y, switches, extents), slope)
    positive = y.abs()
    again, _ = max_pool(unpool(positive, switches, extents), axes)
    assert torch.equal(again, positive)


@pytest.mark.parametrize(
    ("kernel", "expected"), [(Kernel(3, 2), True), (Kernel(4, 2), False), (Kernel(3, 1), False), (Kernel(2, 2), False)]
)
def test_a_checkerboard_is_uneven_overlap(kernel: Kernel, expected: bool) -> None:
    """Ones through ones: inside, all places get the same where no checkerboard is warned of."""
    found = transposed(torch.ones(1, 1, 24, **DOUBLE), torch.ones(1, 1, kernel.extent, **DOUBLE), kernel, (24 * kernel.stride,))
    inside = found[0, 0, 2 * kernel.extent : -2 * kernel.extent]
    assert bool((inside != inside[0]).any()) == expected == checkerboard(kernel)
