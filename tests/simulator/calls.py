"""Each transaction that workers, the reconciler and users make, as a value and as the real function behind it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Connection

from service.errors import Conflict
from service.storage import jobs, models, shards
from service.storage.metrics import Metric
from service.storage.models import ModelDraft
from service.storage.shards import Claim, Ghost, Outcome
from tests.simulator.rows import LEASE_S

PROJECT = "default"
MAX_ATTEMPTS = 3
ENGINE = {"threads": 1}
BROKEN = {"type": "/problems/trainer-killed", "title": "Trainer killed", "status": 500, "detail": "…"}


class Call(NamedTuple):
    """A transaction: its name, the claim that it is made under as shard and fence, and what it says."""

    name: str
    number: int = 0
    fence: int = 0
    said: Any = None


class Refusal(NamedTuple):
    """An answer that changed nothing: `ghost`, or the slug of a conflict."""

    slug: str


GHOST = Refusal("ghost")
CLAIM = Call("claim")
RECONCILE = Call("reconcile")
UNDER_FENCE = ("heartbeat", "record", "checkpoint", "finish", "publish", "fail", "cancel", "release")


def model_id(job: str, fence: int) -> str:
    """The id of the model that the publisher with that fence would leave."""
    return f"model of {job} by {fence}"


def _record(c: Connection, claim: Claim, said: Any) -> None:
    step, reports = said
    progress = {"fraction": step / 4, "epoch": step, "members_done": 0, "eta_s": None, "phase": "training", "best": None}
    shards.record(c, claim, progress=progress if reports else None, values=[Metric(claim.number, step, "loss", 1.0 / step)])


def _publish(c: Connection, claim: Claim, result: Any) -> bool:
    draft = ModelDraft(
        id=model_id(claim.job_id, claim.fence), name=f"net-{claim.job_id}", spec={}, signature={}, layers=[], parameters=1,
        metrics={}, members=len(result), files={}, sha256=str(claim.fence),
    )  # fmt: skip
    return shards.publish(c, claim, Outcome(draft, {"parts": [list(part) for part in result]}, None, None))


def _fail(c: Connection, claim: Claim, retryable: Any) -> bool:
    return shards.fail(c, claim, BROKEN, retryable=retryable, max_attempts=MAX_ATTEMPTS)


FUNCTIONS: dict[str, Callable[[Connection, Claim, Any], Any]] = {
    "claim": lambda c, claim, owner: shards.claim(c, owner or "w", LEASE_S, max_attempts=MAX_ATTEMPTS, engine=ENGINE),
    "orders": lambda c, claim, said: shards.orders(c, claim),
    "heartbeat": lambda c, claim, said: shards.heartbeat(c, claim, LEASE_S),
    "record": _record,
    "checkpoint": lambda c, claim, record: shards.checkpoint(c, claim, checkpoint_of(claim.job_id, claim.number, *record)),
    "finish": lambda c, claim, result: shards.finish(c, claim, {"steps": result[0], "value": result[1], "fence": claim.fence}),
    "publish": _publish,
    "fail": _fail,
    "cancel": lambda c, claim, said: shards.cancel(c, claim),
    "release": lambda c, claim, said: shards.release(c, claim),
    "kept": lambda c, claim, said: models.exists(c, model_id(claim.job_id, claim.fence)),
    "reconcile": lambda c, claim, said: shards.reconcile(c, MAX_ATTEMPTS),
    "user cancel": lambda c, claim, said: jobs.cancel(c, PROJECT, claim.job_id),
    "user stop": lambda c, claim, said: jobs.stop(c, PROJECT, claim.job_id),
    "user retry": lambda c, claim, said: jobs.retry(c, PROJECT, claim.job_id),
}


def checkpoint_of(job: str, number: int, step: int, value: int, fence: int) -> dict[str, Any]:
    """The record of a checkpoint; its file's name has the fence of the attempt that wrote it."""
    return {"step": step, "value": value, "key": f"jobs/{job}/{fence:06d}-{number}/{step:06d}"}


def perform(c: Connection, job: str, call: Call) -> Any:
    """What the call answers, from within its transaction; refusals are raised, so that it is rolled back."""
    claim = Claim(
        job_id=job, number=call.number, project=PROJECT, kind="train", members=(call.number,), fence=call.fence, job_kind="train",
        spec={}, extra={}, dataset_id=None, checkpoint=None, engine=ENGINE, results=(), elapsed_s=0.0,
    )  # fmt: skip
    return FUNCTIONS[call.name](c, claim, call.said)


def refusal(error: Ghost | Conflict) -> Refusal:
    """A refusal as an answer."""
    return GHOST if isinstance(error, Ghost) else Refusal(error.slug)
