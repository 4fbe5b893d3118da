"""What a job will cost, before it is accepted: parameters, memory, floating point operations, steps."""

import math
from typing import NamedTuple

from service.blocks import BLOCK_BYTES
from service.nets.gates import Gated
from service.nets.network import Network
from service.nets.recurrent import Recurrent
from service.settings import Settings
from service.spec import TrainSpec
from service.stacking import side_by_side
from service.tricks.adversarial import FGSMTraining
from service.tricks.certification import IBPTraining
from service.tricks.optimization import SGD
from service.tricks.smoothing import TRADES, VAT
from service.tricks.sparsity import L0

BASE_BYTES = 290 * 2**20
"""A trainer with torch imported, at work on something small."""
COMPILER_BYTES = 130 * 2**20
"""What a trainer loads to compile kernels with (measured: 105 where they were compiled before, 141 where not)."""
COPIES, MOMENT_COPIES = 8, 3
"""Of each parameter while a checkpoint is written and the next epoch trains: weight, gradient, best weight, a copy of the weight, and
weight and best weight twice over as bytes; of each of the optimizer's moments: itself, a copy, and bytes."""
PUBLISHED_COPIES = 4
"""Of each parameter of all members where the model is put together: weights, and what is read and written of them as bytes."""
HELD = 1.6
"""How many times the memory of what a pass holds it takes: gradients on their way back, and gaps between what is held (measured)."""
BOX, CELLS_BOX = 4, 6
"""How many times what a pass holds one of intervals holds: of each layer the box that comes, as center and radius, and its ends; the
second of plain and gated cells, whose own pass is one operation and keeps little (measured)."""

ROW_BYTES = 48
"""Of each row besides: labels, places in parts and orders."""
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
    """Of an encoded row that is held; one that is mapped from a file takes no memory."""
    read_bytes: int
    """Of a row that is read: two blocks of them are gathered, and as many as a block of validation rows are held."""
    train: int
    batch: int
    epochs: int
    max_steps: int | None
    members: int
    shard: int = 1
    again: Again = Again()
    passes: int = 3
    """Of a step through the network, forward or backward; adversarial training takes more."""
    graphs: int = 1
    """Forward passes of a step that are held at once, as `graphs_of` counts them."""
    bounded: bool = False
    """Whether a step bounds the differences of classes too."""
    moments: int = 2
    """Numbers that the optimizer remembers of each parameter."""
    compiles: bool = False
    """Whether kernels are compiled for it."""


def cost_of(network: Network, load: Load) -> Cost:
    """The cost of training this network.

    A pass costs two operations per weight and row, and a plain step is one forward and two backward. Memory is that of the
    process which needs most: of those that train, with the copies of the parameters, weights times gates and what a batch's passes
    hold, of each of the members that train side by side; or of the one that puts the model together, with the parameters of all
    members and what reconstructions say of all rows. All hold the encoded dataset.
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    every = math.ceil(load.train / load.batch) * load.epochs
    steps = min(every, load.max_steps or every)
    held = int(HELD * 4 * load.batch * held_of(network, load))
    copies = COPIES + MOMENT_COPIES * load.moments
    gated = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, Gated))
    training = side_by_side(parameters, load.shard) * (4 * (copies * parameters + gated) + held)
    mirrored = sum(width for target, width in zip(network.spec.targets, network.spec.widths, strict=True) if target.from_inputs)
    answers = load.rows * mirrored * (ANSWER_BYTES + (MEMBER_BYTES * load.members if load.members > 1 else 0))
    publishing = 4 * PUBLISHED_COPIES * parameters * load.members + answers
    data = load.rows * (load.row_bytes + ROW_BYTES) + 3 * min(BLOCK_BYTES, load.rows * load.read_bytes)
    memory = BASE_BYTES + (COMPILER_BYTES if load.compiles else 0) + data + max(training, publishing)
    seen = min(load.train * load.epochs, steps * load.batch) + load.again.rows
    flops = 2 * load.passes * network.products * seen * load.members
    return Cost(parameters, *network.sharing, memory, flops, steps + load.again.steps)


def held_of(network: Network, load: Load) -> int:
    """Numbers that a step holds of one row: of all its passes, and of bounds the rows of differences of classes with their sizes."""
    classes = sum(width for target, width in zip(network.spec.targets, network.spec.widths, strict=True) if target.says == "classes")
    return load.graphs * network.held + (2 * classes * network.trunk.features if load.bounded else 0)


def graphs_of(spec: TrainSpec) -> int:
    """Forward passes that a step holds at once: two where it learns from clean and from moved rows, one and a box where it bounds.

    FGSM's mix takes them one after the other where training and serving are the same function.
    """
    rule = spec.adversarial_training
    if isinstance(rule, IBPTraining):
        cells = isinstance(spec.architecture, Recurrent) and spec.architecture.cell != "lstm"
        return 1 + (CELLS_BOX if cells else BOX) if rule.weight else 1
    if rule is None or isinstance(rule, TRADES | VAT):
        return 1 if rule is None else 2
    apart = isinstance(rule, FGSMTraining) and not (spec.drops or spec.architecture.normalizes)
    return 2 if 0 < rule.weight < 1 and not apart else 1


def moments_of(spec: TrainSpec) -> int:
    """Numbers that the optimizer remembers of a parameter; twice as many where those of the best weights are kept too."""
    own = bool(spec.optimizer.momentum) if isinstance(spec.optimizer, SGD) else 2
    return own * (2 if spec.early_stopping is not None and spec.early_stopping.then == "continue" else 1)


def compiles(spec: TrainSpec) -> bool:
    """Whether a trainer on a CPU compiles kernels: for L0, and for proximal steps in a metric of moments."""
    adaptive = not isinstance(spec.optimizer, SGD)
    return any(isinstance(penalty, L0) or (penalty.proximal and adaptive) for penalty in spec.regularizers)


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
