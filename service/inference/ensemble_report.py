"""The report's `ensemble`: the formula of its error beside the measured one, its best member, what it costs, its out-of-bag rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from service.inference.bags import OutOfBag, out_of_bag
from service.inference.decomposition import against_best, errors_by_size, member_errors, member_squares, variance_decomposition
from service.inference.measuring import Found, Inquiry
from service.seeds import derive
from service.tricks.modes import Asking

Summary = Mapping[str, Any]


def ensemble(inquiry: Inquiry, summaries: Sequence[Summary], measured: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """All of it for the first target on test; null for one member, and where no test row has a label.

    `measured` are the members' own metrics, in the order of `summaries`.
    """
    if inquiry.model.size == 1 or "test" not in inquiry.parts:
        return None
    target, test = inquiry.targets[0], inquiry.parts["test"]
    answer = inquiry.answers("test", Asking(members="all", weights="equal").axes(inquiry.model))[target.name]
    found = member_errors(answer, target, inquiry.material, test)
    if found is None or not found[1].shape[1]:
        return None
    name, errors = found
    each = member_squares(errors).mean(axis=1)
    best, difference = against_best(errors, seed=derive(inquiry.model.spec.seed, 0, "best member"))
    error, rows = _out_of_bag(inquiry, [summary["member"] for summary in summaries])
    return {
        "target": target.name,
        "error": name,
        **variance_decomposition(errors),
        "out_of_bag": error,
        "out_of_bag_rows": rows,
        "member_errors": each.tolist(),
        "by_size": errors_by_size(errors),
        "best_member": {"member": summaries[best]["member"], "error": float(each[best]), "ensemble_better": difference},
        "likelihood": _likelihood(inquiry, measured),
        "cost": _cost(inquiry, summaries, best),
    }


def _likelihood(inquiry: Inquiry, measured: Sequence[Mapping[str, Any]]) -> Found | None:
    """The negative log likelihood of the average beside the mean member's; null where the target has none.

    A Gaussian ensemble has two: of the one Gaussian with the mixture's mean and variance, and of the mixture itself, which is
    no worse than the mean member's on any row. So is that of the mean probability; the one Gaussian's may be.
    """
    name = inquiry.targets[0].name
    prefix = "" if len(inquiry.targets) == 1 else f"{name}."
    together = inquiry.measure("test", Asking(members="all", weights="equal").axes(inquiry.model))
    each = [own[f"{prefix}nll"] for own in measured if own.get(f"{prefix}nll") is not None]
    if together.get(f"{prefix}nll") is None or len(each) < len(measured):
        return None
    mixture = together.get(f"{prefix}nll_mixture")
    return {"nll": together[f"{prefix}nll"], "nll_mixture": mixture, "mean_member_nll": float(np.mean(each))}


def _cost(inquiry: Inquiry, summaries: Sequence[Summary], best: int) -> dict[str, dict[str, int] | None]:
    """What k members take and what the best one alone would have; the steps of training are null where they were not kept."""
    own = sum(parameter.numel() for parameter in inquiry.model.networks[best].parameters())
    steps = [summary.get("stopped_step") for summary in summaries]
    known = [step for step in steps if step is not None]
    trained = known[best] if len(known) == len(steps) else None
    return {
        "parameters": {"member": own, "ensemble": own * inquiry.model.size},
        "forward_passes": {"member": 1, "ensemble": inquiry.model.size},
        "training_steps": {"member": trained, "ensemble": sum(known)} if trained is not None else None,
    }


def _out_of_bag(inquiry: Inquiry, members: Sequence[int]) -> tuple[float | None, dict[str, Any] | None]:
    """The error of training rows averaged over the members that did not see them, and which rows that were; null without bootstrap."""
    target, train, material = inquiry.targets[0], inquiry.parts["train"], inquiry.material
    bag = out_of_bag(inquiry.model.spec, train, members)
    if bag is None:
        return None, None
    answer = inquiry.answers("train", Asking(members="all", weights="equal").axes(inquiry.model))[target.name]
    known = (~target.missing(material.labels[target.name][torch.from_numpy(train)])).numpy()
    of_known = OutOfBag(train[known], bag.unseen[:, known])
    covered = of_known.covered
    about = {
        "rows": int(covered.sum()),
        "excluded": int((~covered).sum()),
        "unlabelled": int((~known).sum()),
        "unseen": float(bag.unseen.mean()),
        "members": float(of_known.unseen[:, covered].sum(axis=0).mean()) if covered.any() else None,
    }
    found = member_errors(answer, target, material, train)
    if found is None or not covered.any():
        return None, about
    errors = of_known.mean(found[1])
    return float((errors**2).sum() / len(errors)), about
