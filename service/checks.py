"""Contradictions within a spec: flaws that refuse it, warnings that do not."""

import re
from collections.abc import Iterator
from itertools import chain

from service.errors import Flaw, Invalid
from service.estimate import Cost, slot_memory
from service.settings import Settings
from service.spec import TrainSpec

Flaws = Iterator[Flaw]


def refuse(*found: Flaws) -> None:
    """Raises Invalid when there is any flaw, with the first of each place."""
    flaws: dict[str, Flaw] = {}
    for flaw in chain.from_iterable(found):
        flaws.setdefault(flaw.pointer, flaw)
    if flaws:
        raise Invalid(list(flaws.values())[:20])


def as_name(text: str) -> str:
    """A dataset's name as a model's: lower case, other characters as dashes."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64]
    return name if name and not re.match(r"ds_|job_|mdl_|key_", name) else f"model-{name}"[:64]


def network(spec: TrainSpec, warnings: list[Flaw]) -> Flaws:
    """What of a network may surprise."""
    yield from ()
    warnings += [flaw._replace(pointer=f"/architecture{flaw.pointer}") for flaw in spec.architecture.cautions()]
    if any(drawing.shifts for drawing in spec.drawings):
        warnings.append(
            Flaw(
                "/architecture/dropout",
                "dropout-before-batch-norm",
                "batch norm after dropout sees another variance in training than later",
            )
        )


def reconstruction(spec: TrainSpec) -> Flaws:
    """A reconstruction without a decoder, a decoder without one, and more than one."""
    places = [i for i, target in enumerate(spec.targets or ()) if target.from_inputs]
    decodes, kind = spec.architecture.reconstructs, spec.architecture.type
    if decodes and not places:
        layer = spec.architecture.coder
        what = kind if layer is None else f"a network with a layer called code (/architecture{layer})"
        yield Flaw("/targets", "inconsistent-spec", f"{what} reconstructs its inputs: it needs a target of task reconstruction")
    for i in places[0 if not decodes else 1 :]:
        message = "the inputs are one target" if decodes else f"{kind} has no decoder; an autoencoder has"
        yield Flaw(f"/targets/{i}/task", "inconsistent-spec", message)


def vary(spec: TrainSpec, warnings: list[Flaw]) -> Flaws:
    """Values for members where the spec has nothing that takes them; values for more members than there are are a warning."""
    lists = dict(spec.ensemble.vary.lists()) if spec.ensemble.vary is not None else {}
    strengths = [i for i, penalty in enumerate(spec.regularizers) if getattr(penalty, "alpha", None) is not None]
    if "dropout" in lists and not spec.architecture.droppable:
        yield Flaw("/ensemble/vary/dropout", "inconsistent-spec", "the network has no hidden layer whose units could be dropped")
    elif "dropout" in lists and not spec.architecture.evenly:
        yield Flaw(
            "/ensemble/vary/dropout", "inconsistent-spec", "the architecture has rates of layers or units; a member's is one for all"
        )
    if "alpha" in lists and len(strengths) != 1:
        where = f"regularizers {', '.join(map(str, strengths))} have" if strengths else "no regularizer has"
        yield Flaw("/ensemble/vary/alpha", "inconsistent-spec", f"it is that of the one regularizer with alpha; {where} one")
    for name, values in lists.items():
        if len(values) > spec.ensemble.size:
            warnings.append(
                Flaw(
                    f"/ensemble/vary/{name}",
                    "values-beyond-members",
                    f"{len(values)} values for {spec.ensemble.size} members; the last are never taken",
                )
            )


def size(spec: TrainSpec, shape: tuple[int, ...], kind: str, settings: Settings) -> Flaws:
    """Inputs that the architecture does not take, and networks too large even to be described."""
    unfit = [flaw._replace(pointer=f"/architecture{flaw.pointer}") for flaw in spec.architecture.fits(shape, kind=kind)]
    yield from unfit
    if not unfit and spec.architecture.weights(shape, kind=kind) > settings.max_parameters:
        yield Flaw("/architecture", "cost-limit", f"more parameters per member than the limit of {settings.max_parameters}")


def costs(spec: TrainSpec, cost: Cost, settings: Settings, machine_bytes: int) -> Flaws:
    """What goes beyond the limits of this service."""
    members = spec.ensemble.size
    if members > settings.max_members:
        yield Flaw("/ensemble/size", "cost-limit", f"at most {settings.max_members} members")
    if spec.epochs > settings.max_epochs:
        yield Flaw("/epochs", "value-out-of-range", f"at most {settings.max_epochs} epochs")
    if spec.early_stopping is not None and (spec.early_stopping.cap_epochs or 0) > settings.max_epochs:
        yield Flaw("/early_stopping/cap_epochs", "value-out-of-range", f"at most {settings.max_epochs} epochs")
    if cost.parameters > settings.max_parameters:
        yield Flaw("/architecture", "cost-limit", f"{cost.parameters} parameters per member; the limit is {settings.max_parameters}")
    elif cost.parameters * members > settings.max_job_parameters:
        yield Flaw("/ensemble/size", "cost-limit", f"{cost.parameters * members} parameters; the limit is {settings.max_job_parameters}")
    memory = int(0.8 * slot_memory(settings, machine_bytes))
    if cost.memory_bytes > memory:
        yield Flaw("/architecture", "cost-limit", f"about {cost.memory_bytes} bytes of memory; the limit is {memory}")
