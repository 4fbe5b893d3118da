"""What a member leaves behind when it ends: files in the store, and a summary of plain values that names them."""

import json
import math
from typing import Any

from torch import Tensor

from service.inference.material import Material
from service.storage.files import Store
from service.tricks.stopping import Patience
from workers.training.checkpointing import pack, unpack, write_bytes
from workers.training.gradients import over_training
from workers.training.retraining import COMPLETE
from workers.training.run import Member, Run

Summary = dict[str, Any]


def summarize(member: Member, run: Run, material: Material, store: Store, prefix: str) -> Summary:
    """A member at the end of its first phase: best weights, curves and, where training goes on from there, the optimizer's state."""
    key = f"{prefix}/member-{member.number}"
    gradients = over_training(material, member, next(run.network.parameters()).device)
    moments = write_bytes(store, f"{key}-optimizer.safetensors", pack(member.moments)) if member.moments else None
    return {
        "member": member.number,
        "file": write_bytes(store, f"{key}.safetensors", pack(member.best)),
        "moments": moments,
        "best": member.patience.best,
        "best_epoch": member.patience.epoch,
        "best_step": member.patience.step,
        "stopped_epoch": run.epoch,
        "stopped_step": run.step,
        "stop_reason": member.reason,
        "stopped_by": member.reason,
        "distance": distance(material, member.number, member.best),
        "gradients": write_bytes(store, f"{key}-gradients.json", json.dumps(gradients).encode()),
        "second": None,
        "rolled_back": list(member.guard.rolled_back),
        "history": _history(store, key, member),
    }


def conclude(summary: Summary, run: Run, store: Store, prefix: str) -> Summary:
    """The summary of a member whose second phase is over; one that did not run its course leaves the first phase's weights."""
    member, second, key = run.only, run.second, f"{prefix}/member-{summary['member']}-again"
    if second is None:
        raise ValueError("a second phase is concluded")
    found = {**summary, "stop_reason": member.reason, "history": _history(store, key, member)}
    found["rolled_back"] = [*summary.get("rolled_back", ()), *member.guard.rolled_back]
    if member.reason in COMPLETE:
        found["file"] = write_bytes(store, f"{key}.safetensors", pack(member.best))
    lasted = second.describe(epoch=run.epoch, step=run.step)
    return {**found, "stopped_step": summary["stopped_step"] + lasted["steps"], "second": {"reason": member.reason, **lasted}}


def remember(summary: Summary, store: Store) -> Member:
    """The member of a first phase's summary, without streams: a second phase has its own."""
    member = Member(summary["member"], {}, Patience(summary["best"], summary["best_epoch"], summary["best_step"]))
    member.best = unpack(store.read(summary["file"]))
    member.moments = unpack(store.read(summary["moments"])) if summary["moments"] is not None else {}
    member.history = json.loads(store.read(summary["history"]))
    return member


def with_gradients(summary: Summary, store: Store) -> Summary:
    """The summary with what its file of gradients says; None of one that an older release made."""
    record = summary.get("gradients")
    return {**summary, "gradients": json.loads(store.read(record)) if record is not None else None}


def distance(material: Material, member: int, weights: dict[str, Tensor]) -> dict[str, Any]:
    """How far parameters are from the member's first ones, in Euclidean norm: of each of the `layers`, and `all` together."""
    network = material.initial(member)
    squares = {
        name: float((weights[name].detach().cpu().double() - parameter.detach().double()).square().sum())
        for name, parameter in network.named_parameters()
    }
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    layers = {
        layer: math.sqrt(sum(squares[names[id(parameter)]] for parameter in module.parameters()))
        for layer, module in network.layers().items()
    }
    return {"all": math.sqrt(sum(squares.values())), "layers": layers}


def _history(store: Store, key: str, member: Member) -> Any:
    return write_bytes(store, f"{key}.json", json.dumps(member.history).encode())
