"""Back to the inputs: what of a row made a unit of a convolution answer (Zeiler and Fergus 2014, section 2).

A network between two activations is linear once a max-pooling's switches are held. What leads back is its transpose: of a
convolution the transposed one, whose filters are the same ones flipped; of max-pooling, unpooling; of batch norm in service, gain
over standard deviation; of a sum, as a residual block's, the signal to both sides, the bridge's crossing it as it came. At
activations the deconvnet asks not for slopes: it rectifies the signal itself.
"""

from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from service.nets.activations import ACTIVATIONS
from service.nets.network import Network
from service.tricks.dropout import SCALED

PASSED = {function for name, function in ACTIVATIONS.items() if name != "identity"}
RECTIFIED = {F.relu, torch.sigmoid}
"""Activations that are never negative, so that what is reconstructed of them must not be either."""


class Peaks(NamedTuple):
    """Where the channels of a layer are strongest on N rows: values [N, C], places within their maps [N, C], and the maps' space."""

    values: Tensor
    places: Tensor
    space: tuple[int, ...]


class _Passed(Function):
    """An activation going forward; the signal going back is rectified or let through, whatever the slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, rectified: bool) -> Any:
        ctx.rectified = rectified
        return function(x)

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None, None]:
        (signal,) = signals
        return (signal.clamp(min=0) if ctx.rectified else signal), None, None


class _Passing(TorchFunctionMode):
    """While it is on, in this thread alone, activations are `_Passed`."""

    def __init__(self, *, rectify: bool) -> None:
        super().__init__()
        self.rectify = rectify

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        told = kwargs or {}
        if function not in PASSED:
            return function(*args, **told)
        rectified = self.rectify and function in RECTIFIED
        return _Passed.apply(args[0], partial(function, **told), rectified)  # type: ignore[no-untyped-call]


def convolutions(network: Network) -> dict[str, int]:
    """The layers whose units can be projected, in forward order, and how many channels each has."""
    own = [layer for layer in network.describe() if not layer.name.startswith("head.")]
    return {layer.name: layer.shape[-1] for layer in own if layer.type == "convolution"}


def peaks(network: Network, layer: str, x: Tensor) -> Peaks:
    """Where each channel of a layer is strongest on rows x [N, *shape] in the inputs' own units."""
    with torch.no_grad():
        return _peaks(_features(_watched(network), layer, network.preprocess(x)))


def project(network: Network, layer: str, x: Tensor, channels: Tensor, *, rectify: bool = True) -> tuple[Peaks, Tensor]:
    """The strongest unit of some channels [N, M] of a layer on each of rows x, and its projection [N, M, *shape].

    A projection is in units of normalized inputs; all other units of the layer count as silent, and so does one that is not
    positive. Without `rectify` it is the transposed linear map, switches held, of the unit's value, whatever its sign.
    """
    watched, leaf = _watched(network), network.preprocess(x).detach().requires_grad_(True)
    with torch.enable_grad(), _Passing(rectify=rectify):
        features = _features(watched, layer, leaf)
    found = _peaks(features.detach())
    chosen = Peaks(found.values.gather(1, channels), found.places.gather(1, channels), found.space)
    maps, signals = features.flatten(2), []
    for channel, value, place in zip(channels.T, chosen.values.T, chosen.places.T, strict=True):
        seed = torch.zeros_like(maps)
        seed[torch.arange(len(x)), channel, place] = value.clamp(min=0) if rectify else value
        signals.append(torch.autograd.grad(maps, leaf, seed, retain_graph=True)[0])
    return chosen, torch.stack(signals, dim=1)


def _watched(network: Network) -> Network:
    """The same network, tensors and all, whose modules are its own: what is hung on them no other thread sees."""
    tensors = (*network.parameters(), *network.buffers())
    return deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _features(network: Network, layer: str, z: Tensor) -> Tensor:
    """What a layer gives [N, C, *S] of normalized inputs z."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        seen.append(output)

    network.layers()[layer].register_forward_hook(keep)
    found, kept = network.trunk.encode(z, SCALED)
    if not seen:  # it stands behind the code
        network.trunk.decode(found, SCALED, kept)
    return seen[-1]


def _peaks(features: Tensor) -> Peaks:
    """The maxima of features [N, C, *S] over space."""
    values, places = features.flatten(2).max(-1)
    return Peaks(values, places, tuple(features.shape[2:]))
