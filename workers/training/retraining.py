"""The second phase of early stopping: validation rows are trained on too, anew or on from the best weights.

Goodfellow, Bengio, Courville 2016, "Deep Learning", Algorithms 7.2 and 7.3. Each member has it by itself, whatever it was
stacked with before: members stop at different steps.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from service.inference.asking import quiet
from service.inference.material import Material
from workers.training.batches import member_rows, steps_per_epoch
from workers.training.evaluation import Evaluation
from workers.training.run import Member, Run, start

FOLLOWED = ("early_stopping", "epochs", "max_steps")
"""Ends of a first phase that a second one may follow: those that nobody ordered and nothing broke."""
COMPLETE = ("retrained", "threshold", "cap")
"""Ends of a second phase that has run its course; after any other the first phase's best weights are kept."""


def follows(material: Material, reason: str | None) -> bool:
    """Whether a second phase follows a first one that ended so."""
    stopping = material.spec.early_stopping
    return stopping is not None and stopping.goes_on and reason in FOLLOWED


def blank(material: Material, member: int, device: torch.device) -> Run:
    """A run that a second phase's checkpoint can be restored into."""
    return start(material, (member,), device, validation=True)


def begin(material: Material, first: Member, epochs: int, device: torch.device, *, beat: Callable[[], None] = quiet) -> Run:
    """The second phase of a member whose first one took so many epochs, before its first step.

    The threshold of `continue` is the loss of the best weights on the member's training rows, measured as on validation;
    where the loss on validation is no higher, as it may be, the phase has ended already.
    """
    stopping = material.spec.early_stopping
    if stopping is None:
        raise ValueError("only early stopping has a second phase")
    run = blank(material, first.number, device)
    own, steps = run.only, {"every": steps_per_epoch(material), "longer": steps_per_epoch(material, validation=True)}
    own.best, own.patience, own.history, run.epoch = first.best, first.patience, first.history, epochs
    if stopping.then == "retrain":
        own.second = stopping.second(own.patience, epochs=epochs, **steps, threshold=None)
        return run
    run.network.load(first.best)
    run.take_moments(first.moments)
    for name, stream in own.streams.items():  # the first phase's numbers are used up
        stream.manual_seed(material.spec.ensemble.seed(own.number, f"{name}.continue", seed=material.spec.seed))
    measure = Evaluation(material, run.network.entries, device, beat, part=material.parts.validation)
    threshold = measure(run.network, measure.prepared(member_rows(material, own.number)))[0]["loss"]
    loss = measure(run.network)[0]["loss"]
    own.second = replace(stopping.second(own.patience, epochs=epochs, **steps, threshold=threshold), loss=loss)
    run.step = own.second.step
    own.reason = own.second.ends(run.step, loss)
    return run
