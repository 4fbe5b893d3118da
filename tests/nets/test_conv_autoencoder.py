"""Convolutional autoencoders: what comes out has the place and shape of what went in."""

from typing import Any

import pytest
import torch
from torch import Tensor

from service.nets.conv_autoencoder import ConvAutoencoder
from service.tricks.dropout import SCALED

CASES: list[tuple[dict[str, Any], tuple[int, ...], str]] = [
    ({"channels": (4, 6)}, (8, 8), "image"),
    ({"channels": (4, 6), "code": 5}, (9, 7, 3), "image"),
    ({"channels": (4, 6, 2), "kernel": 4, "code": 5, "tied": True}, (9, 7, 3), "image"),
    ({"channels": (4, 6), "upsampling": "unpooling"}, (9, 8), "image"),
    ({"channels": (4, 6), "upsampling": "unpooling", "tied": True, "code": 3}, (10, 9, 2), "image"),
    ({"channels": (4, 6), "upsampling": "unpooling"}, (20, 5), "tensor"),
    ({"channels": (4,), "kernel": 4}, (21, 5), "tensor"),
]


def built(fields: dict[str, Any], shape: tuple[int, ...], kind: str) -> Any:
    generator = torch.Generator().manual_seed(0)
    trunk = ConvAutoencoder(**fields).build(shape, generator, kind=kind)
    return trunk.double(), trunk.head("reconstruction", 0, how="torch", generator=generator).double()


def reconstructed(trunk: Any, head: Any, x: Tensor) -> Tensor:
    features, kept = trunk.encode(x, SCALED)
    found: Tensor = head(trunk.decode(features, SCALED, kept))
    return found


@pytest.mark.parametrize(("fields", "shape", "kind"), CASES)
def test_shapes_counts_and_leading_axes(fields: dict[str, Any], shape: tuple[int, ...], kind: str) -> None:
    trunk, head = built(fields, shape, kind)
    spec = ConvAutoencoder(**fields)
    assert not list(spec.fits(shape, kind=kind))
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert trunk(x[0], SCALED).shape == (3, trunk.features)
    found = reconstructed(trunk, head, x)
    assert found.shape == (2, 3, torch.Size(shape).numel())
    torch.testing.assert_close(found, torch.stack([reconstructed(trunk, head, own) for own in x]), rtol=1e-12, atol=1e-12)
    counted = sum(p.numel() for p in (*trunk.parameters(), *head.parameters()) if p.ndim > 1)
    assert counted == spec.weights(shape, kind=kind)
    assert trunk.linears().keys() == trunk.shapes().keys()
    assert trunk.activations().keys() <= {site.name for site in trunk.sites}


@pytest.mark.parametrize(("fields", "shape", "kind"), CASES)
def test_it_learns_to_give_back_what_it_sees(fields: dict[str, Any], shape: tuple[int, ...], kind: str) -> None:
    trunk, head = built({**fields, "code": None, "channels": (8,)}, shape, kind)
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        loss = (reconstructed(trunk, head, x) - x.flatten(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]


def test_a_tied_decoder_has_no_weights_of_its_own() -> None:
    trunk, head = built({"channels": (4, 6), "code": 5, "tied": True}, (8, 8), "image")
    names = [name for name, p in [*trunk.named_parameters(), *head.named_parameters()] if p.ndim > 1]
    assert names == ["encoder.0.weight", "encoder.1.weight", "code.weight"]


def test_a_kernel_that_its_step_does_not_divide_is_warned_of() -> None:
    assert [flaw.code for flaw in ConvAutoencoder(channels=(4,)).cautions()] == ["checkerboard"]
    assert not list(ConvAutoencoder(channels=(4,), kernel=4).cautions())
    assert not list(ConvAutoencoder(channels=(4,), upsampling="unpooling").cautions())


@pytest.mark.parametrize(
    ("fields", "shape", "kind", "pointer"),
    [
        ({"channels": (4, 4, 4, 4), "upsampling": "unpooling"}, (8, 8), "image", "/channels/3"),
        ({"channels": (4,)}, (9,), "table", "/type"),
    ],
)
def test_rows_that_do_not_fit(fields: dict[str, Any], shape: tuple[int, ...], kind: str, pointer: str) -> None:
    assert [flaw.pointer for flaw in ConvAutoencoder(**fields).fits(shape, kind=kind)] == [pointer]
