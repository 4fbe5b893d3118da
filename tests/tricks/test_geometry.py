"""Images moved, turned, resized, mirrored and covered: identities that hold exactly, and an independent resampler."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from service.tricks.geometry import Cutout, Flip, Rotate, Scale, Translate, area, boxes, rotations, sampled, shifted, within
from service.tricks.streams import Draws, row_keys

SHAPES = [(8, 8), (9, 9), (28, 28), (6, 11), (28, 28, 3), (5, 4, 2)]
SQUARE = [(8, 8), (9, 9), (28, 28, 3)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
N = 7


def images(shape: tuple[int, ...], count: int = N) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def draws(count: int = N, seed: int = 0, epoch: int = 0) -> Draws:
    return Draws(row_keys([seed], np.arange(count)[None], epoch=epoch, place=0))


def turned(x: Tensor, degrees: float) -> Tensor:
    return sampled(x, rotations(np.full(len(x), degrees)))


@each_shape
@pytest.mark.parametrize("k", [1, 2, 3])
def test_there_and_back_is_the_identity_on_the_interior(shape: tuple[int, ...], k: int) -> None:
    x = images(shape)
    stream = np.random.default_rng(k)
    down, right = stream.integers(-k, k + 1, (2, N))
    moved = shifted(x, down, right)
    back = shifted(moved, -down, -right)
    inner = (slice(None), slice(k, shape[0] - k), slice(k, shape[1] - k))
    assert torch.equal(back[inner], x[inner])
    for i in range(N):
        by_hand = ndimage.shift(x[i].numpy(), (down[i], right[i], *[0] * (len(shape) - 2)), order=0, mode="constant")
        assert np.array_equal(moved[i].numpy(), by_hand)


@each_shape
def test_whole_turns_are_the_identity(shape: tuple[int, ...]) -> None:
    x = images(shape)
    for degrees in (0.0, 360.0, -360.0, 720.0):
        assert torch.equal(turned(x, degrees), x)
    assert torch.equal(turned(x, 180.0), x.flip(1, 2))


@pytest.mark.parametrize("shape", SQUARE, ids=str)
def test_quarter_turns_are_exact_and_four_of_them_the_identity(shape: tuple[int, ...]) -> None:
    x = images(shape)
    assert torch.equal(turned(x, 90.0), x.rot90(1, (1, 2)))
    assert torch.equal(turned(x, -90.0), x.rot90(-1, (1, 2)))
    assert torch.equal(turned(x, 270.0), turned(x, -90.0))
    four = x
    for _ in range(4):
        four = turned(four, 90.0)
    assert torch.equal(four, x)


@each_shape
@pytest.mark.parametrize("degrees", [-15.0, 3.3, 44.9, 45.1, 100.0, 359.0])
def test_a_rotation_is_that_of_an_independent_resampler(shape: tuple[int, ...], degrees: float) -> None:
    x = images(shape).double().numpy()
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    # On (row, column), from where a pixel comes: counterclockwise as one sees it, rows running down.
    matrix = np.array([[c, s], [-s, c]])
    middle = (np.array(shape[:2]) - 1) / 2
    found = turned(torch.from_numpy(x).float(), degrees).numpy()
    for i in range(N):
        planes = x[i][..., None] if len(shape) == 2 else x[i]
        for channel in range(planes.shape[-1]):
            plane = np.pad(planes[..., channel], 1)  # one pixel of zeros, into which the border fades
            offset = middle + 1 - matrix @ middle
            whole = ndimage.affine_transform(plane, matrix, offset, output_shape=shape[:2], order=1, mode="constant")
            mine = found[i] if len(shape) == 2 else found[i][..., channel]
            assert np.abs(mine - whole).max() < 2e-5


def test_turning_a_linear_ramp_turns_its_gradient() -> None:
    """Bilinear sampling is exact on planes, so that inside the circle a ramp stays a ramp."""
    down, right = np.mgrid[:21, :21] - 10.0
    x = torch.from_numpy(2 * right - 3 * down).float()[None]
    for degrees in (10.0, 37.0):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        expected = 2 * (c * right - s * down) - 3 * (s * right + c * down)
        inside = right**2 + down**2 < 9.5**2
        assert np.abs(turned(x, degrees)[0].numpy() - expected)[inside].max() < 1e-4


@each_shape
def test_resizing_by_one_is_the_identity_and_by_two_doubles_distances(shape: tuple[int, ...]) -> None:
    x = images(shape)
    assert torch.equal(Scale(low=1.0, high=1.0)(x, draws()), x)
    down, right = np.mgrid[: shape[0], : shape[1]] - (np.array(shape[:2]) - 1)[:, None, None] / 2
    ramp = torch.from_numpy(right - 2 * down).float()[None]
    assert float((Scale(low=2.0, high=2.0)(ramp, draws(1)) - ramp / 2).abs().max()) < 1e-5


@each_shape
def test_flips_twice_are_the_identity(shape: tuple[int, ...]) -> None:
    x = images(shape)
    for axis, dimension in (("horizontal", 2), ("vertical", 1)):
        flip = Flip(axis=axis)
        once = flip(x, draws())
        assert torch.equal(once, x.flip(dimension))
        assert torch.equal(flip(once, draws()), x)


@each_shape
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cutout_covers_a_square_that_the_border_cuts(shape: tuple[int, ...], size: int) -> None:
    covered = Cutout(size=size)(torch.ones(1500, *shape), draws(1500)) == 0
    planes = covered if len(shape) == 2 else covered.all(-1)
    assert torch.equal(planes, covered if len(shape) == 2 else covered.any(-1)), "all channels of a pixel alike"
    counts = planes.flatten(1).sum(1)
    assert int(counts.max()) == size**2
    assert int(counts.min()) >= (size // 2 if size > 1 else 1) * max(1, size // 2)
    tall, wide = planes.any(2).sum(1), planes.any(1).sum(1)
    assert torch.equal(tall * wide, counts), "a box"
    if planes[0].numel() < 100:
        assert planes.any(0).all(), "every pixel is covered in some row"


def test_boxes_are_cut_off_at_the_border() -> None:
    middle = np.array([[0.0, 0.0], [0.999, 0.999], [0.5, 0.5], [0.5, 0.0]])
    found = boxes(middle, np.array([[4, 4], [4, 4], [8, 8], [0, 3]]), 8, 8)
    assert found.tolist() == [[0, 2, 0, 2], [5, 8, 5, 8], [0, 8, 0, 8], [4, 4, 0, 2]]
    assert area(found).tolist() == [4, 9, 64, 0] == within(found, 8, 8).flatten(1).sum(1).tolist()


def test_what_is_drawn_is_uniform_over_the_range() -> None:
    point = torch.zeros(5000, 9, 9)
    point[:, 4, 4] = 1.0
    moved = Translate(pixels=2)(point, draws(5000)).sum(0)
    assert float(moved.sum()) == 5000
    inside = moved[2:7, 2:7].double()
    assert float(inside.sum()) == 5000
    assert float(((inside - 200) ** 2 / 200).sum()) < 60  # chi squared with 24 degrees of freedom
    right = torch.zeros(5000, 41, 41)
    right[:, 20, 39] = 1.0
    where = Rotate(degrees=20.0)(right, draws(5000)).sum(2)
    height = (where * (20.0 - torch.arange(41.0))).sum(1) / where.sum(1)
    angles = torch.rad2deg(torch.asin((height / 19).clamp(-1, 1)))
    assert float(angles.abs().max()) < 22
    assert abs(float(angles.mean())) < 4 * 20 / 3**0.5 / 5000**0.5 + 0.1
    assert float(angles.std()) == pytest.approx(20 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("kind", [Translate(pixels=3), Rotate(degrees=30.0), Scale(), Flip(axis="horizontal"), Cutout(size=2)])
def test_a_row_is_changed_alike_in_any_batch(kind: Translate | Rotate | Scale | Flip | Cutout) -> None:
    for probability in (1.0, 0.5):
        transform = kind.model_copy(update={"probability": probability})
        x = images((8, 8), 60)
        whole = transform(x, draws(60))
        chosen = np.random.default_rng(0).permutation(60)[:23]
        some = transform(x[torch.from_numpy(chosen)], Draws(row_keys([0], chosen[None], epoch=0, place=0)))
        assert torch.equal(some, whole[torch.from_numpy(chosen)])
        assert torch.equal(transform(x[5:6], Draws(row_keys([0], np.array([[5]]), epoch=0, place=0))), whole[5:6])
        assert not torch.equal(transform(x, draws(60, epoch=1)), whole) or transform.type == "flip"
