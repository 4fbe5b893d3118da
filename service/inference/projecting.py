"""Projections at once: rows in, what of them a layer's strongest units answer to, in the form of the rows."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.errors import TooLarge, invalid
from service.inference.asking import CHUNK_ENTRIES
from service.inference.model import Model
from service.inference.rows import read_rows
from service.nets.network import Network
from service.nets.projection import Peaks, convolutions, peaks, project
from service.tricks.choices import AtMost
from service.tricks.modes import Asking
from service.values import ITEMS, Value

STRONGEST = 9
"""Channels of a row, where nothing else is asked."""
MOST_CHANNELS = 64
MOST_NAMES = 20
"""Layers that a message lists."""
MOST_NUMBERS = 5_000_000
"""Numbers in one answer."""
MOST_PRODUCTS = 200_000_000_000
"""Multiplications of one answer: the forward pass of each row, and for each channel the way back, which costs as much."""


class ProjectRequest(Value):
    """Rows, and the units of a layer that are projected back to them."""

    inputs: list[Any]
    """Rows, as for a prediction."""
    layer: str
    """A convolution by its name."""
    strongest: Annotated[int, Field(ge=1, le=MOST_CHANNELS)] | None = None
    """How many of each row's strongest channels; null: 9, or the `channels` that are given."""
    channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], ITEMS, Field(min_length=1), AtMost(MOST_CHANNELS)] | None = None
    """These channels in place of the strongest."""
    members: Annotated[int, Field(ge=0)] | Literal["best"] = "best"
    """"best" or an index: whose layer it is."""
    rectify: bool = True
    """Whether the signal is rectified on its way back; without, the way back is the transposed linear map."""


def answer(model: Model, request: ProjectRequest, *, most_rows: int) -> dict[str, Any]:
    """The answer without the model's id; raises Invalid, TooLarge."""
    (member,) = Asking(members=request.members).axes(model).members
    network = model.networks[member]
    count = _channels(request, convolutions(network), model.spec.architecture.type)
    x = torch.from_numpy(read_rows(request.inputs, model.encoding, most=most_rows))
    wanted = len(request.channels or ()) or min(request.strongest or STRONGEST, count)
    _affordable(len(x), wanted, math.prod(model.encoding.shape), network.products)
    chosen, found, signals = _projected(network, request, x, wanted)
    _check_range(signals)
    return {
        "members": member,
        "layer": request.layer,
        "shape": [*found.space, count],
        "rectify": request.rectify,
        "rows": len(x),
        "channels": chosen.tolist(),
        "places": torch.stack(torch.unravel_index(found.places, found.space), dim=-1).tolist(),
        "values": found.values.tolist(),
        "projections": signals.tolist(),
    }


def _projected(network: Network, request: ProjectRequest, x: Tensor, wanted: int) -> tuple[Tensor, Peaks, Tensor]:
    """The channels [N, M], their strongest units and the projections [N, M, *shape], some rows at a time."""
    parts = []
    for rows in x.split(max(1, CHUNK_ENTRIES // (network.entries + 1))):
        if request.channels is not None:
            channels = torch.tensor(request.channels).expand(len(rows), -1)
        else:
            channels = strongest(peaks(network, request.layer, rows).values, wanted)
        parts.append((channels, *project(network, request.layer, rows, channels, rectify=request.rectify)))
    chosen, found, signals = zip(*parts, strict=True)
    values, places = (torch.cat([getattr(part, name) for part in found]) for name in ("values", "places"))
    return torch.cat(chosen), Peaks(values, places, found[0].space), torch.cat(signals)


def _affordable(rows: int, channels: int, entries: int, products: int) -> None:
    if rows * channels * entries > MOST_NUMBERS or rows * (1 + channels) * products > MOST_PRODUCTS:
        raise TooLarge(f"{channels} projections of each of {rows} rows are too much for one answer; send fewer.", slug="cost-limit")


def _check_range(signals: Tensor) -> None:
    wrong = (~signals.isfinite().flatten(1).all(1)).nonzero()
    if len(wrong):
        raise invalid(f"/inputs/{int(wrong[0])}", "non-finite", "the projections of this row are beyond the range of the network's numbers")


def strongest(values: Tensor, count: int) -> Tensor:
    """The channels [N, count] with the largest values [N, C], the largest first; of equal ones the lower number."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _channels(request: ProjectRequest, known: dict[str, int], architecture: str) -> int:
    """How many channels the layer has; raises Invalid where there is none of that name, or none that is asked for."""
    if not known:
        raise invalid("/layer", "inconsistent-spec", f"this {architecture} has no convolutions, whose units have places in a row")
    if request.layer not in known:
        raise invalid("/layer", "unknown-choice", f"the convolutions are {', '.join(list(known)[:MOST_NAMES])}")
    if request.channels is not None and request.strongest is not None:
        raise invalid("/strongest", "inconsistent-spec", "channels are either given or the strongest")
    count = known[request.layer]
    beyond = next((i for i, channel in enumerate(request.channels or ()) if channel >= count), None)
    if beyond is not None:
        raise invalid(f"/channels/{beyond}", "value-out-of-range", f"{request.layer} has channels 0 to {count - 1}")
    return count
