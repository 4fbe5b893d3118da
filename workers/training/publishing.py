"""The last shard of a job: combine what the others left, measure it, and put the model where it can be asked."""

import json
from pathlib import Path
from typing import Any

from service.data.columns import Columns
from service.inference import report
from service.inference.material import Material, prepare
from service.inference.model import Model, serving
from service.spec import TrainSpec
from service.storage.files import Folder
from service.tricks.stopping import improves
from workers.messages import Assignment, Done, Progress
from workers.training.checkpointing import Record, pack, read_bytes, unpack, write_bytes
from workers.training.link import Link
from workers.training.robustness import publish_robustness
from workers.training.run import build

Summary = dict[str, Any]


def publish(assignment: Assignment, link: Link) -> Done:
    """The result of a whole job, with the model if it made one."""
    if assignment.spec["kind"] == "robustness":
        return publish_robustness(assignment)
    return _publish_model(assignment, link)


def _publish_model(assignment: Assignment, link: Link) -> Done:
    spec = TrainSpec.model_validate(assignment.spec)
    summaries = sorted((s for result in assignment.results for s in result["members"]), key=lambda s: int(s["member"]))
    if not summaries:
        return Done({"model": None, "result": {}, "best": None, "stop_reason": "user_stop"})
    material = prepare(spec, Columns(Path(assignment.dataset_folder)))
    folder = Folder(Path(assignment.files_root))
    model = gather(material, folder, summaries)
    link.send(Progress(1.0, 0, model.size, None, "evaluating", None))
    measured = report.build(model, material, summaries)
    link.send(Progress(1.0, 0, model.size, None, "publishing", None))
    files = store(model, measured, folder, f"models/{assignment.model_id}")
    best = summaries[model.best]
    metric = f"validation.{best['monitor']}" if best["monitor"] else None
    reasons = {summary["stop_reason"] for summary in summaries}
    return Done(
        {
            "model": _row(model, measured, files),
            "result": {"metrics": {"splits": measured["splits"], "modes": measured["modes"]}, "members": len(summaries)},
            "best": {"metric": metric, "value": best["best"], "epoch": best["best_epoch"]},
            "stop_reason": reasons.pop() if len(reasons) == 1 else "mixed",
        }
    )


def gather(material: Material, folder: Folder, summaries: list[Summary]) -> Model:
    """The model of the members' kept weights."""
    networks = []
    for summary in summaries:
        network = build(material, None)
        network.load(unpack(read_bytes(folder, summary["file"])))
        networks.append(serving(network))
    return Model(material.spec, material.encoding, material.classes, tuple(networks), best_member(material.spec, summaries))


def best_member(spec: TrainSpec, summaries: list[Summary]) -> int:
    """The member with the best monitor on validation, ties to the lower index; 0 where nothing was monitored."""
    if spec.early_stopping is None:
        return 0
    sign = -1.0 if improves(spec.early_stopping.monitor) == "up" else 1.0
    values = [sign * s["best"] if s["best"] is not None else float("inf") for s in summaries]
    return values.index(min(values))


def store(model: Model, measured: dict[str, Any], folder: Folder, prefix: str) -> dict[str, Record]:
    """Write the model's files; the model itself has neither id nor time in it, so that equal runs give equal bytes."""
    contents = {
        "model.safetensors": pack(model.tensors()),
        "spec.json": json.dumps(model.describe(), indent=1).encode(),
        "report.json": json.dumps(measured).encode(),
    }
    return {name: write_bytes(folder, f"{prefix}/{name}", content) for name, content in contents.items()}


def _row(model: Model, measured: dict[str, Any], files: dict[str, Record]) -> dict[str, Any]:
    """What the model's row in the database holds."""
    network = model.networks[0]
    return {
        "name": model.spec.name,
        "spec": model.spec.dump(),
        "signature": signature(model),
        "layers": [layer._asdict() for layer in network.describe()],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "metrics": {"splits": measured["splits"], "modes": measured["modes"]},
        "members": model.size,
        "files": files,
        "sha256": files["model.safetensors"]["sha256"],
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
