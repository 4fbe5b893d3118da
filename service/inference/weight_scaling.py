"""A model's weights as textbooks have them: of masks that are not rescaled, to be multiplied by the probability of keeping.

Srivastava et al. 2014, figure 2 and appendix A.2: with masks of 0 and 1 in training, a unit's outgoing weights are multiplied by
p_keep at prediction; with masks of 0 and 1 / p_keep nothing is. It is the same function of weights that differ by p_keep: ours
are of the second kind, w, and these are w / p_keep.
"""

import json

import torch
from safetensors.torch import save
from torch import Tensor, nn

from service.errors import NotFound
from service.inference.model import Model
from service.nets.architecture import DECODED, HEADS
from service.nets.network import Network
from service.tricks.dropout import STEPS, Site, keep_steps

FILE = "test_time_scaling.safetensors"
"""Of a model that was trained with dropout: the tensors of `model.safetensors`, with w / p_keep and p_keep in place of w."""
KEEP = ".keep"
"""What the name of a weight's p_keep, one for each input, ends with."""


def unscaled(model: Model) -> bytes:
    """The file; equal models give equal bytes. Raises NotFound where weights and masks do not come apart so."""
    if not model.drops:
        raise NotFound(f"This model has no {FILE}: it was trained without dropout, and its weights are the same either way.")
    tensors = model.tensors()
    for i, network in enumerate(model.networks):
        for name, keep in kept(network).items():
            weight = tensors[f"members.{i}.{name}"]
            tensors |= {f"members.{i}.{name}": weight / keep, f"members.{i}.{name}{KEEP}": keep}
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return save(plain, metadata={"temper": json.dumps({"convention": "test_time_scaling", "format": 1}, sort_keys=True)})


def kept(network: Network) -> dict[str, Tensor]:
    """By name of each weight [outputs, inputs] that reads units that can be dropped: their probabilities of being kept [inputs]."""
    readers = network.trunk.readers()
    if readers is None:
        raise NotFound(f"This model has no {FILE}: units that are dropped are also read without weights, or by weights that are shared.")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    weights = [(names[id(weight)], site) for site in network.sites for reader in readers[site.name] for weight in _weights(network, reader)]
    if len({name for name, _ in weights}) < len(weights):
        raise NotFound(f"This model has no {FILE}: layers share weights that would be scaled differently.")
    return {name: _keep(site) for name, site in weights if site.rate}


def _weights(network: Network, reader: str) -> list[Tensor]:
    """The weights of a layer, or of the heads that are meant."""
    layers = [network.layers()[reader]] if reader not in (HEADS, DECODED) else []
    for target, head in zip(network.spec.targets, network.heads, strict=True):
        if reader == (DECODED if target.task == "reconstruction" else HEADS):
            layers.append(head)
    return [part.weight for layer in layers for part in layer.modules() if isinstance(part, nn.Linear)]


def _keep(site: Site) -> Tensor:
    """p_keep of each unit [units] as masks are drawn with it, a multiple of 2^-16 and so exact in float32."""
    return torch.from_numpy(keep_steps(site.rate) / STEPS).float().expand(site.units).clone()
