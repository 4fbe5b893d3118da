"""The last shard of a robustness job: results joined, checked and drawn."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from service.inference import certifying, diagnostics, robustness_result
from service.inference.asking import ask
from service.inference.plots.robustness import Example
from service.inference.plots.robustness import robustness as draw
from service.inference.pools import Classes
from service.inference.transfer import transfer
from service.inference.trials import leading
from service.spec import RobustnessSpec
from service.tricks.attacks import AnyAttack
from workers.messages import Assignment, Done, Progress
from workers.training.checkpointing import write_bytes
from workers.training.link import Link
from workers.training.robustness import Ground

FEW_ROWS, EXAMPLES = 50, 3
"""Rows among which examples for the picture are looked for, and how many."""


def publish_robustness(assignment: Assignment, link: Link) -> Done:
    """The result of the whole job, with the checks; what no shard reached is left out."""
    spec = RobustnessSpec.model_validate(assignment.spec)
    pieces = [part for result in assignment.results for part in result["pieces"]]
    reason = next((result["ordered"] for result in assignment.results if result["ordered"]), None)
    if not pieces:
        return Done({"model": None, "result": {}, "best": None, "stop_reason": reason})
    result = robustness_result.combine(pieces, spec.attacks, spec.epsilons)
    ground = Ground(assignment, spec)
    head: dict[str, Any] = {
        "model": spec.model,
        "split": spec.split,
        "mode": ground.axes.mode,
        "bounds": robustness_result.bounds(spec.attacks, ground.model),
        "transfer": None,
        "certified": robustness_result.certified(pieces, spec.attacks, spec.epsilons, _refusal(ground, spec, pieces)),
    }
    checks: list[diagnostics.Check] = []
    if ground.target.says == "classes" and reason is None:
        beat = partial(link.progress, Progress(1.0, 0, 0, None, "evaluating", None))
        broken_at = result["per_row"]["broken_at"][: diagnostics.ROWS]
        reached = [float(np.mean([at is None or at > epsilon for at in broken_at])) for epsilon in spec.epsilons]
        subject, lead = ground.subject(slice(0, diagnostics.ROWS), beat), leading(spec.attacks)
        checks = diagnostics.check(subject, spec.attacks, spec.epsilons, reached)
        head["transfer"] = transfer(subject, lead, spec.epsilons) if lead is not None else None
    result["per_row"] = {**ground.labelled([part["rows"] for part in pieces]), **result["per_row"]}
    found = {**head, **result, **diagnostics.verdict(checks)}
    content = draw(found, examples(ground, found, spec.attacks) if checks else [], span(ground))
    record = write_bytes(assignment.store, picture_key(spec.model, assignment.job_id), content)
    found["picture"] = {"size": record["size"], "sha256": record["sha256"]}
    return Done({"model": None, "result": found, "best": None, "stop_reason": reason})


def _refusal(ground: Ground, spec: RobustnessSpec, pieces: Sequence[dict[str, Any]]) -> str | None:
    """Why rows are not verified; None where they are."""
    reason = certifying.refusal(ground.model, ground.axes, spec.attacks)
    if reason is None and any(part.get("verified") is None for part in pieces):
        return "a part of the rows was attacked by an older release, which verified nothing"
    return reason


def picture_key(model_id: str, job_id: str) -> str:
    """Where a job's picture lies: in its model's folder, with which it goes."""
    return f"models/{model_id}/robustness/{job_id}.svg"


def span(ground: Ground) -> tuple[float, float]:
    """The training rows' range, where the input is an array."""
    array = ground.model.encoding.array
    return (array.low, array.high) if array is not None else (0.0, 1.0)


def examples(ground: Ground, result: dict[str, Any], attacks: Sequence[AnyAttack]) -> list[Example]:
    """Images of the first rows that fell at the smallest epsilon that broke any, before and after the job's leading attack."""
    array, lead = ground.model.encoding.array, leading(attacks)
    fell = [at for at in result["per_row"]["broken_at"][:FEW_ROWS] if at]
    if array is None or len(array.shape) not in (2, 3) or lead is None or not fell or array.shape[2:] not in ((), (1,), (3,)):
        return []
    subject = ground.subject(slice(0, FEW_ROWS), lambda: None)
    outcome = subject.attack(lead.sized(min(fell)))
    answer = ask(ground.model, outcome.moved, ground.axes)[ground.target.name]
    if not isinstance(answer, Classes):
        return []
    names, chosen = ground.model.classes[0] or (), (subject.right & ~outcome.standing).nonzero().squeeze(1)[:EXAMPLES].tolist()
    before, after, said = subject.x.numpy(), outcome.moved.numpy(), answer.prediction
    return [Example(before[i], after[i], (names[int(subject.truth[i])], names[int(said[i])])) for i in chosen]
