"""Stored models that a training job refers to: to start from, or to be tied to."""

from collections.abc import Mapping, Sequence

import torch

from service.errors import ArtifactCorrupt, Conflict
from service.inference.model import from_files
from service.layer_checks import referred
from service.nets.network import Network, weights_of
from service.nets.reach import Constants
from service.spec import TrainSpec
from service.storage.files import Store
from service.tricks.choices import matching
from service.tricks.starting import Init
from service.tricks.tying import StoredLayer

Sources = Mapping[str, tuple[Network, ...]]
"""The members of stored models by id."""


def read_sources(spec: TrainSpec, store: Store) -> Sources:
    """The models that a resolved spec refers to; raises Conflict model-deleted."""
    found: dict[str, tuple[Network, ...]] = {}
    for model_id in dict.fromkeys(ref for _, ref in referred(spec)):
        try:
            found[model_id] = from_files(lambda name, model_id=model_id: store.get(f"models/{model_id}/{name}")).networks  # type: ignore[misc]
        except ArtifactCorrupt as error:
            raise Conflict("model-deleted", f"The stored model {model_id} that the job refers to was deleted.") from error
    return found


def source_of(sources: Sources, model_id: str, member: int) -> Network:
    """The network that is member i's: the stored model's member i mod its size."""
    return sources[model_id][member % len(sources[model_id])]


def take_over(init: Init, network: Network, source: Network) -> None:
    """Let the layers that are named begin as a stored network has them; gates keep their own beginning."""
    theirs = source.layers()
    with torch.no_grad():
        for name in matching(init.layers, list(network.layers())):
            network.layers()[name].load_state_dict(theirs[name].state_dict(), strict=False)


def constants_of(sources: Sources, members: Sequence[int], device: torch.device, *, stacked: bool) -> Constants:
    """What ties to stored models are tied to, for members of these numbers."""

    def constants(side: StoredLayer, everything: bool) -> list[torch.Tensor]:
        own = [weights_of(source_of(sources, side.model, member), [side.layer], everything=everything) for member in members]
        kept = [torch.stack(each) for each in zip(*own, strict=True)] if stacked else own[0]
        return [tensor.detach().to(device) for tensor in kept]

    return constants
