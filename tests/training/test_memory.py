"""A trainer that asks for more memory than it may have says so, and is not tried again."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from service.storage.files import Folder
from workers import evidence
from workers.children import Trainers
from workers.messages import Assignment, Done, Failed
from workers.supervisor import ENTRY, PRELOAD

MIB = 2**20


@pytest.mark.parametrize(("memory_bytes", "enough"), [(96 * MIB, False), (4096 * MIB, True)])
def test_a_trainer_may_not_take_more_than_its_share(bench: Any, tmp_path: Path, memory_bytes: int, enough: bool) -> None:
    material = bench.material("digits", architecture={"type": "mlp", "hidden": [2048, 2048, 2048]}, max_steps=1, epochs=1, batch_size=8)
    shutil.copytree(bench.folder / "digits", tmp_path / "datasets" / "ds_digits")
    told = Assignment("job_x", 0, "train", 1, (0,), material.spec.dump(), "ds_digits", "jobs/job_x/1-0", "mdl_x", Folder(tmp_path),
                      memory_bytes=memory_bytes)  # fmt: skip
    trainer = Trainers(ENTRY, PRELOAD).start(told)
    said: list[Any] = []
    while not trainer.silent:
        said += trainer.receive(1.0)
    trainer.end()
    if enough:
        assert isinstance(said[-1], Done)
    else:
        assert isinstance(said[-1], Failed)
        assert (said[-1].error["type"], said[-1].retryable) == ("/problems/out-of-memory", False)


def test_a_kill_for_memory_is_told_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's own count, as the control group shows it."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 3\n")
    monkeypatch.setattr(evidence, "EVENTS", events)
    assert evidence.oom_kills() == 3
    died = evidence.of_death(-signal.SIGKILL, 2)
    assert (died.error["type"], died.retryable) == ("/problems/out-of-memory", False)
    other = evidence.of_death(-signal.SIGKILL, 3)
    assert (other.error["title"], other.retryable) == ("Trainer killed by SIGKILL", True)
    assert evidence.of_death(-signal.SIGSEGV, 2).error["title"] == "Trainer killed by SIGSEGV"
    assert evidence.of_death(os.EX_OK, 0).error["type"] == "/problems/trainer-lost"
