"""Recurrent cells step by step, in functions that intervals go through: torch's own layers take tensors alone."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.nets.intervals import Interval

State = tuple[Interval, Interval]
"""What is said at a step, and the memory beside it that long short-term memory has."""
Cell = Callable[[Interval, Interval, State], State]


def unrolled(cells: nn.RNNBase, x: Interval) -> Interval:
    """What one layer of cells makes of boxes of sequences [N, T, F]: boxes of their states [N, T, units x directions]."""
    ways = [_way(cells, x, "_reverse" if back else "") for back in range(2 if cells.bidirectional else 1)]
    return cast(Interval, torch.cat(cast("list[Tensor]", ways), dim=-1))


def _way(cells: nn.RNNBase, x: Interval, suffix: str) -> Interval:
    """One direction; the states stand in the order of the sequence."""
    read, kept, biases, more = (getattr(cells, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    zero = x.center.new_zeros(len(x), cells.hidden_size)
    state, steps = (Interval(zero, zero), Interval(zero, zero)), range(x.shape[1])
    said: list[Interval] = []
    for step in reversed(steps) if suffix else steps:
        now, before = _linear(x[:, step], read, biases), _linear(state[0], kept, more)
        state = CELLS[cells.mode](now, before, state)
        said.append(state[0])
    return cast(Interval, torch.stack(cast("list[Tensor]", said[::-1] if suffix else said), dim=1))


def _linear(box: Interval, weight: Tensor, bias: Tensor | None) -> Interval:
    return cast(Interval, F.linear(cast(Tensor, box), weight, bias))


def _lstm(now: Interval, before: Interval, state: State) -> State:
    """c = f c + i g, h = o tanh(c) (Hochreiter and Schmidhuber 1997, with a forget gate)."""
    enter, forget, new, leave = (now + before).chunk(4, -1)
    memory = forget.ends(torch.sigmoid) * state[1] + enter.ends(torch.sigmoid) * new.tanh()
    return leave.ends(torch.sigmoid) * memory.tanh(), memory


def _gru(now: Interval, before: Interval, state: State) -> State:
    """h = (1 - z) n + z h (Cho et al. 2014)."""
    (reset, update, new), (reset_before, update_before, new_before) = now.chunk(3, -1), before.chunk(3, -1)
    z = (update + update_before).ends(torch.sigmoid)
    n = (new + (reset + reset_before).ends(torch.sigmoid) * new_before).tanh()
    return Interval(1 - z.center, z.radius) * n + z * state[0], state[1]


def _rnn(now: Interval, before: Interval, state: State) -> State:
    return (now + before).tanh(), state[1]


CELLS: dict[str, Cell] = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _rnn}
