"""What a job will cost, before it is accepted: parameters, memory, floating point operations, steps."""

import math
from typing import NamedTuple

from service.nets.network import Network
from service.settings import Settings
from service.spec import TrainSpec
from service.stacking import side_by_side

BASE_BYTES = 350 * 2**20
"""A trainer with torch imported and nothing loaded."""
COPIES = 7
"""Of each parameter: weight, gradient, two moments, best, and the two buffers of a checkpoint."""

ANSWER_BYTES, MEMBER_BYTES = 16, 8
"""Of each entry of a reconstruction while a model is measured: of the answer, and of each of several members' own, while joined."""


class Cost(NamedTuple):
    """Of a whole job, but for parameters and `steps`, which are one member's."""

    parameters: int
    saved_by_tying: int
    unshared: int
    saved_by_sharing: int
    """These three as in `Sharing`."""
    memory_bytes: int
    flops: int
    steps: int


class Again(NamedTuple):
    """The most that a member's second phase takes: steps, and rows in all of them together."""

    steps: int = 0
    rows: int = 0


class Load(NamedTuple):
    """What a job has to do.

    Rows and their encoded bytes, training rows of a member, batch size, epochs, members, the most of a shard, a second phase.
    """

    rows: int
    row_bytes: int
    train: int
    batch: int
    epochs: int
    max_steps: int | None
    members: int
    shard: int = 1
    again: Again = Again()
    passes: int = 3
    """Of a step through the network, forward or backward; adversarial training takes more."""


def cost_of(network: Network, load: Load) -> Cost:
    """The cost of training this network.

    A pass costs two operations per weight and row, and a plain step is one forward and two backward; memory holds the encoded
    dataset, for each of the members that train side by side the copies of its parameters and a batch's activations three times
    over, and what reconstructions say of all rows.
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    every = math.ceil(load.train / load.batch) * load.epochs
    steps = min(every, load.max_steps or every)
    activations = 3 * 4 * load.batch * network.entries
    together = side_by_side(parameters, load.shard)
    mirrored = sum(width for target, width in zip(network.spec.targets, network.spec.widths, strict=True) if target.from_inputs)
    answers = load.rows * mirrored * (ANSWER_BYTES + (MEMBER_BYTES * load.members if load.members > 1 else 0))
    memory = BASE_BYTES + load.rows * load.row_bytes + together * (4 * COPIES * parameters + activations) + answers
    seen = min(load.train * load.epochs, steps * load.batch) + load.again.rows
    flops = 2 * load.passes * network.products * seen * load.members
    return Cost(parameters, *network.sharing, memory, flops, steps + load.again.steps)


def second_phase(spec: TrainSpec, load: Load, *, validation: int) -> Load:
    """The load with what early stopping may add: training on so many validation rows too, at most as long as it may last."""
    if spec.early_stopping is None or not spec.early_stopping.goes_on:
        return load
    rows = load.train + validation
    every, longer = (1, 1) if spec.batch_size == "full" else (math.ceil(load.train / load.batch), math.ceil(rows / load.batch))
    first = min(every * load.epochs, load.max_steps or every * load.epochs)
    steps = spec.early_stopping.most_steps(first, epochs=load.epochs, every=every, longer=longer)
    return load._replace(again=Again(steps, math.ceil(steps / longer * rows)))


def slot_memory(settings: Settings, machine_bytes: int) -> int:
    """Memory of one slot: a setting, else the machine's shared among the slots."""
    return settings.slot_memory_bytes or machine_bytes // settings.slots
