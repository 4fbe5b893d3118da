"""Recurrent networks against their equations, and masks that last over time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from service.nets.recurrent import Recurrent
from service.tricks.dropout import SCALED, Dropout, Sampled, Site

STEPS, INPUTS = 6, 5


def built(**fields: Any) -> Any:
    return Recurrent(**fields).build((STEPS, INPUTS), torch.Generator().manual_seed(0), kind="tensor").double()


def sequences(rows: int = 4) -> Tensor:
    return torch.randn(rows, STEPS, INPUTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def unrolled(cell: str, cells: Any, x: Tensor) -> Tensor:
    """The states [N, T, H] by the equations of each cell."""
    w, u, b, c = cells.weight_ih_l0, cells.weight_hh_l0, cells.bias_ih_l0, cells.bias_hh_l0
    h = memory = x.new_zeros(len(x), u.shape[1])
    states = []
    for t in range(x.shape[1]):
        if cell == "rnn":
            h = torch.tanh(x[:, t] @ w.T + b + h @ u.T + c)
        elif cell == "gru":
            own, fed = (x[:, t] @ w.T + b).chunk(3, 1), (h @ u.T + c).chunk(3, 1)
            r, z = torch.sigmoid(own[0] + fed[0]), torch.sigmoid(own[1] + fed[1])
            h = (1 - z) * torch.tanh(own[2] + r * fed[2]) + z * h
        else:
            i, f, g, o = (x[:, t] @ w.T + b + h @ u.T + c).chunk(4, 1)
            memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(memory)
        states.append(h)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_states_follow_the_equations(cell: Any) -> None:
    trunk, x = built(cell=cell, hidden=(7,)), sequences()
    torch.testing.assert_close(trunk(x, SCALED), unrolled(cell, trunk.hidden[0].cells, x)[:, -1], rtol=1e-12, atol=1e-12)
    assert Recurrent(cell=cell, hidden=(7,)).weights((STEPS, INPUTS), kind="tensor") == sum(
        p.numel() for p in trunk.parameters() if p.ndim > 1
    )


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_both_ends_end_with_the_state_that_has_read_all(cell: Any) -> None:
    trunk, x = built(cell=cell, hidden=(4,), bidirectional=True), sequences()
    cells = trunk.hidden[0].cells
    back = built(cell=cell, hidden=(4,))
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(back.hidden[0].cells, name).data = getattr(cells, f"{name}_reverse").data
    found = trunk(x, SCALED)
    assert found.shape == (4, 8)
    torch.testing.assert_close(found[:, :4], unrolled(cell, cells, x)[:, -1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[:, 4:], back(x.flip(1), SCALED), rtol=1e-12, atol=1e-12)


def test_leading_axes_are_rows() -> None:
    trunk = built(hidden=(7, 3))
    x = torch.stack([sequences(), sequences() + 1])
    torch.testing.assert_close(trunk(x, SCALED), torch.stack([trunk(own, SCALED) for own in x]), rtol=1e-12, atol=1e-12)


def test_a_dropped_unit_stays_dropped_over_time() -> None:
    spec = {"hidden": (7, 3), "dropout": Dropout(input=0.5, hidden=(0.5, 0.0))}
    trunk = built(**spec)
    seen: list[Tensor] = []
    for layer in trunk.hidden:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    masks: dict[str, Tensor] = {}

    class Noted(Sampled):
        def __call__(self, x: Tensor, site: Site) -> Tensor:
            masks[site.name] = super().__call__(x, site)
            return masks[site.name]

    x = sequences(64)
    trunk(x, Noted([torch.Generator().manual_seed(0)], 64))
    assert set(masks) == {"input", "hidden.0"}
    assert torch.equal(seen[0], x * masks["input"].unsqueeze(1))
    dropped = (masks["hidden.0"] == 0).unsqueeze(1).expand_as(seen[1])
    assert 0.4 < dropped.double().mean() < 0.6
    assert not seen[1][dropped].any()
    assert (seen[1][~dropped] != 0).all()


@pytest.mark.parametrize(("shape", "kind"), [((12,), "table"), ((12,), "tensor"), ((8, 8), "image"), ((4, 5, 6), "tensor")])
def test_rows_that_are_no_sequences(shape: tuple[int, ...], kind: str) -> None:
    assert [flaw.pointer for flaw in Recurrent().fits(shape, kind=kind)] == ["/type"]
