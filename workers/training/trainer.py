"""The trainer process: one attempt at one shard, from the assignment to the message that ends it."""

import os
import resource
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from service.checks import refuse
from service.data.columns import stored
from service.errors import TemperError
from service.inference.material import prepare
from service.inference.sources import read_sources
from service.label_checks import unlabelled
from service.spec import TrainSpec
from workers.messages import Assignment, Done, Drained, Failed, Progress
from workers.training.link import Link
from workers.training.members import Shard
from workers.training.publishing import publish
from workers.training.robustness import attack_rows

NICENESS = 10


def main(assignment: Assignment, connection: Connection) -> None:
    """Run one shard and say how it ended; the process ends with it."""
    os.setpgid(0, 0)
    os.nice(NICENESS)
    torch.set_num_threads(assignment.threads)
    if assignment.memory_bytes and not torch.cuda.is_available():  # CUDA maps far more than it takes
        limit_memory(assignment.memory_bytes)
    link = Link(connection)
    try:
        link.send(_run(assignment, link))
    except TemperError as error:
        link.log(f"{error.title}: {error.detail}", "error")
        link.send(Failed(_problem(error.slug, error.title, error.detail, error.status), retryable=error.status >= 500))
    except Exception as error:
        if ran_out(error):
            link.log("out of memory", "error")
            detail = "The trainer asked for more memory than it may take."
            link.send(Failed(_problem("out-of-memory", "Out of memory", detail, 507), retryable=False))
            return
        # The job's log is for its owner; where it happened is for whoever runs the worker.
        traceback.print_exception(error)
        # An operating system's error names paths of ours.
        detail = f"{type(error).__name__}: {error.strerror if isinstance(error, OSError) else error}"
        link.log(detail, "error")
        link.send(Failed(_problem("training-failed", "Training failed", detail, 500), retryable=False))


def limit_memory(more_bytes: int) -> None:
    """Refuse this process more than so many bytes beside those that it has: what asks for too much fails, and not its neighbours."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    most = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def ran_out(error: Exception) -> bool:
    """Whether there was no memory; torch on a CPU says so in words alone."""
    words = ("can't allocate memory", "not enough memory", "bad_alloc", "CUDA out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _run(assignment: Assignment, link: Link) -> Done | Drained:
    """The work of the shard's kind."""
    link.send(Progress(0.0, 0, 0, None, "evaluating" if assignment.kind == "publish" else "preparing", None))
    if assignment.kind == "robustness":
        return attack_rows(assignment, link)
    if assignment.kind == "publish":
        return publish(assignment, link)
    spec = TrainSpec.model_validate(assignment.spec)
    material = prepare(spec, stored(assignment.store, assignment.dataset_id), read_sources(spec, assignment.store))
    refuse(unlabelled(spec, material.targets, material.labels, material.parts))  # whoever accepted the job may not have looked
    return Shard(assignment, material, link, device_of(spec.device)).run()


def device_of(name: str) -> torch.device:
    """The device a spec asks for; `auto` takes a CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _problem(slug: str, title: str, detail: str, status: int) -> dict[str, Any]:
    return {"type": f"/problems/{slug}", "title": title, "status": status, "detail": detail}
