"""Shards of a robustness job: rows attacked here, results joined in the last shard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from service.data.columns import Columns
from service.inference import diagnostics, robustness
from service.inference.material import Material, prepare
from service.inference.model import Model, from_files
from service.inference.robustness import Subject
from service.spec import RobustnessSpec
from service.storage.files import Folder
from service.tricks.modes import Axes
from workers.messages import Assignment, Done, Progress
from workers.training.link import Link


def attack_rows(assignment: Assignment, link: Link) -> Done:
    """Every attack at every epsilon on this shard's rows."""
    spec = RobustnessSpec.model_validate(assignment.spec)
    first, last = assignment.members
    curves: list[list[dict[str, Any]]] = []

    def beat() -> None:
        link.progress(Progress(len(curves) / len(spec.attacks), 0, 0, None, "evaluating", None))

    subject = _subject(assignment, spec, slice(first, last), beat)
    for attack in spec.attacks:
        beat()
        curves.append(robustness.curve(subject, attack, spec.epsilons))
    return Done({**robustness.piece(subject, (), ()), "curves": curves})


def publish_robustness(assignment: Assignment, link: Link) -> Done:
    """The result of the whole job, with the checks."""
    spec = RobustnessSpec.model_validate(assignment.spec)
    result = robustness.combine(list(assignment.results), spec.attacks, spec.epsilons)
    model, material, axes = _loaded(assignment, spec)
    # A split by groups has only about as many rows as were planned.
    rows = _part(material, spec)[: result["rows"]]
    target = (model.spec.targets or ())[0]
    names = model.classes[0]
    labels = material.labels[target.name][torch.from_numpy(rows)]
    shown = [names[i] for i in labels.tolist()] if names is not None else material.originals[target.name][rows].squeeze(-1).tolist()

    def beat() -> None:
        link.progress(Progress(1.0, 0, 0, None, "evaluating", None))

    checks: list[diagnostics.Check] = []
    if names is not None:
        trial = _subject(assignment, spec, slice(0, diagnostics.ROWS), beat)
        checks = diagnostics.check(trial, spec.attacks, spec.epsilons)
    per_row = {"row": rows.tolist(), "label": shown, "broken_at": result.pop("broken_at")}
    verdict = diagnostics.verdict(checks, all_ran=False)
    head = {"model": spec.model, "split": spec.split, "mode": axes.mode, "bounds": robustness.bounds(spec.attacks, model)}
    return Done({"model": None, "result": {**head, **result, "per_row": per_row, **verdict}, "best": None, "stop_reason": None})


def _loaded(assignment: Assignment, spec: RobustnessSpec) -> tuple[Model, Material, Axes]:
    folder = Folder(Path(assignment.files_root))
    model = from_files(lambda name: folder.path(f"models/{spec.model}/{name}").read_bytes())
    return model, prepare(model.spec, Columns(Path(assignment.dataset_folder))), spec.axes(model)


def _part(material: Material, spec: RobustnessSpec) -> Any:
    """The first rows of the part that have a label."""
    rows = material.parts._asdict()[spec.split]
    target = (material.spec.targets or ())[0]
    known = ~target.missing(material.labels[target.name][torch.from_numpy(rows)])
    return rows[known.numpy()][: spec.rows]


def _subject(assignment: Assignment, spec: RobustnessSpec, which: slice, beat: Callable[[], None]) -> Subject:
    model, material, axes = _loaded(assignment, spec)
    rows = _part(material, spec)[which]
    x = material.rows(rows)[0].float()
    target = (model.spec.targets or ())[0]
    if target.task == "classification":
        return Subject(model, axes, x, material.labels[target.name][torch.from_numpy(rows)], first=which.start, beat=beat)
    return Subject(model, axes, x, torch.from_numpy(material.originals[target.name][rows]).float(), first=which.start, beat=beat)
