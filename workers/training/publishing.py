"""The last shard of a job: combine what the others left, measure it, and put the model where it can be asked."""

import json
from typing import Any

from service.data.columns import stored
from service.inference import bags, report, report_page, selection
from service.inference.material import Material, prepare
from service.inference.measuring import Inquiry
from service.inference.model import Model, serving
from service.inference.plots import all_plots
from service.inference.settling import settle
from service.inference.sources import read_sources
from service.nets.pruning import pruned
from service.spec import TrainSpec
from service.storage.files import Store
from service.tricks.stopping import improves
from workers.messages import Assignment, Done, Progress
from workers.training.checkpointing import Record, pack, unpack, write_bytes
from workers.training.link import Link
from workers.training.robustness_publishing import publish_robustness
from workers.training.run import build
from workers.training.summaries import with_gradients

Summary = dict[str, Any]


def publish(assignment: Assignment, link: Link) -> Done:
    """The result of a whole job, with the model if it made one."""
    if assignment.spec["kind"] == "robustness":
        return publish_robustness(assignment, link)
    return _publish_model(assignment, link)


def _publish_model(assignment: Assignment, link: Link) -> Done:
    spec = TrainSpec.model_validate(assignment.spec)
    summaries = sorted((s for result in assignment.results for s in result["members"]), key=lambda s: int(s["member"]))
    ordered = {result["ordered"] for result in assignment.results} - {None}
    if not summaries:
        return Done({"model": None, "result": {}, "best": None, "stop_reason": next(iter(ordered), "user_stop")})
    material = prepare(spec, stored(assignment.store, assignment.dataset_id), read_sources(spec, assignment.store))
    gathered, evaluating = gather(material, assignment.store, summaries), Progress(1.0, 0, len(summaries), None, "evaluating", None)
    link.send(evaluating)
    model, steps = selection.select(Inquiry(gathered, material, lambda: link.progress(evaluating)))
    model = settle(Inquiry(model, material, lambda: link.progress(evaluating)))
    inquiry = Inquiry(model, material, lambda: link.progress(evaluating))
    measured = report.build(inquiry, [with_gradients(summary, assignment.store) for summary in summaries])
    measured["selection"] = selection.report(inquiry, steps)
    histories = {int(summary["member"]): json.loads(assignment.store.read(summary["history"])) for summary in summaries}
    link.send(Progress(1.0, 0, model.size, None, "publishing", None))
    about = _about(model)
    plots = all_plots(inquiry, measured, histories=histories, summaries=summaries)
    page = {"report.html": report_page.render(measured, plots, about)}
    contents = {**_contents(model, measured), **_bagging(inquiry, summaries), **plots, **page}
    files = {name: write_bytes(assignment.store, f"models/{assignment.model_id}/{name}", content) for name, content in contents.items()}
    best = summaries[model.best]
    reasons = ordered or {summary["stop_reason"] for summary in summaries}
    return Done(
        {
            "model": _row(model, measured, files),
            "result": {"metrics": {"splits": measured["splits"], "modes": measured["modes"]}, "members": len(summaries)},
            "best": {"metric": spec.monitored, "value": best["best"], "epoch": best["best_epoch"]} if spec.monitored else None,
            "stop_reason": reasons.pop() if len(reasons) == 1 else "mixed",
        }
    )


def gather(material: Material, store: Store, summaries: list[Summary]) -> Model:
    """The model of the members' kept weights."""
    networks = []
    for summary in summaries:
        network = build(material, None, member=int(summary["member"]))
        network.load(unpack(store.read(summary["file"])))
        networks.append(network)
    networks, cut = pruned(networks)
    best, numbers = best_member(material.spec, summaries), tuple(int(summary["member"]) for summary in summaries)
    return Model(material.spec, material.encoding, material.classes, tuple(map(serving, networks)), best, numbers, cut=cut)


def best_member(spec: TrainSpec, summaries: list[Summary]) -> int:
    """The member with the best monitor on validation, ties to the lower index; 0 where nothing was monitored."""
    if spec.early_stopping is None:
        return 0
    sign = -1.0 if improves(spec.early_stopping.monitor) == "up" else 1.0
    values = [sign * s["best"] if s["best"] is not None else float("inf") for s in summaries]
    return values.index(min(values))


def _contents(model: Model, measured: dict[str, Any]) -> dict[str, bytes]:
    """The model's files; the model itself has neither id nor time in it, so that equal runs give equal bytes."""
    return {
        "model.safetensors": pack(model.tensors(), model.aliases()),
        "spec.json": json.dumps(model.spec.dump(), indent=1).encode(),
        "encoding.json": json.dumps(model.describe(), indent=1).encode(),
        "report.json": json.dumps(measured).encode(),
    }


def _bagging(inquiry: Inquiry, summaries: list[Summary]) -> dict[str, bytes]:
    """The rows that each member trained on, where they are not all rows: no later release has to draw them again."""
    tensors = bags.tensors(inquiry, [int(summary["member"]) for summary in summaries])
    return {bags.FILE: pack(tensors)} if tensors else {}


def _about(model: Model) -> dict[str, Any]:
    """The model's row as far as it is known without its files."""
    network = model.networks[0]
    return {
        "name": model.spec.name,
        "spec": model.spec.dump(),
        "layers": [layer._asdict() for layer in network.describe()],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "members": model.size,
    }


def _row(model: Model, measured: dict[str, Any], files: dict[str, Record]) -> dict[str, Any]:
    """What the model's row in the database holds."""
    return {
        **_about(model),
        "signature": signature(model),
        "metrics": {"splits": measured["splits"], "modes": measured["modes"]},
        "files": files,
        "sha256": files["model.safetensors"]["sha256"],
        "details": {"weights": model.weights},
    }


def signature(model: Model) -> dict[str, Any]:
    """Inputs and outputs as a caller sees them."""
    return {
        "inputs": [_input(column.dump()) for column in model.encoding.inputs],
        "outputs": [
            {"name": target.name, "task": target.task, "classes": names, "outputs": width}
            for target, names, width in zip(model.spec.targets or (), model.classes, model.networks[0].spec.widths, strict=True)
        ],
    }


def _input(column: dict[str, Any]) -> dict[str, Any]:
    """A field of the signature: name, kind, shape, and categories or the range of the training rows."""
    shown = {"name": column["name"], "kind": column["kind"], "shape": column.get("shape", [])}
    extra = {"categories": column["categories"]} if "categories" in column else {"min": column["low"], "max": column["high"]}
    return {**shown, **extra}
