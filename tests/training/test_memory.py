"""A trainer that asks for more memory than it may have says so; data that are larger than that are trained on from their file."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.blocks import BLOCK_BYTES
from service.errors import Invalid
from service.estimate import BASE_BYTES, COMPILER_BYTES, Load, cost_of
from service.resolving import resolve
from service.settings import Settings
from service.storage.files import Folder
from workers import evidence
from workers.children import Trainers
from workers.messages import Assignment, Done, Failed
from workers.supervisor import ENTRY, PRELOAD

MIB = 2**20
WIDE = {"type": "mlp", "hidden": [2048, 2048, 2048]}


def last_word(told: Assignment) -> Any:
    """What a trainer of its own process says last."""
    trainer = Trainers(ENTRY, PRELOAD).start(told)
    said: list[Any] = []
    while not trainer.silent:
        said += trainer.receive(1.0)
    trainer.end()
    return said[-1]


@pytest.mark.parametrize(("memory_bytes", "enough"), [(96 * MIB, False), (4096 * MIB, True)])
def test_a_trainer_may_not_take_more_than_its_share(bench: Any, tmp_path: Path, memory_bytes: int, enough: bool) -> None:
    material = bench.material("digits", architecture=WIDE, max_steps=1, epochs=1, batch_size=8)
    shutil.copytree(bench.folder / "digits", tmp_path / "datasets" / "ds_digits")
    told = Assignment("job_x", 0, "train", 1, (0,), material.spec.dump(), "ds_digits", "jobs/job_x/1-0", "mdl_x", Folder(tmp_path),
                      memory_bytes=memory_bytes)  # fmt: skip
    said = last_word(told)
    if enough:
        assert isinstance(said, Done)
    else:
        assert isinstance(said, Failed)
        assert (said.error["type"], said.retryable) == ("/problems/out-of-memory", False)


@pytest.mark.timeout(400)  # seconds where nothing else runs, minutes where much does
def test_data_larger_than_the_limit_are_trained_on_from_their_file(bench: Any, tmp_path: Path) -> None:
    """By a process that could not hold them."""
    limit, y = 208 * MIB, np.arange(2300) % 2
    x = np.zeros((len(y), 180, 180, 3), dtype=np.uint8)
    x[:, :4] = 100 * y[:, None, None, None]
    bench.arrays("large", x=x, y=y)
    assert x.nbytes > limit
    split = {"validation": 0.02, "test": 0.02}
    raw = {"dataset": "large", "architecture": {"type": "mlp", "hidden": [2]}, "split": split, "epochs": 1, "batch_size": 8}
    spec = resolve(raw, bench._source, Settings()).spec
    shutil.move(bench.folder / "large", tmp_path / "datasets" / "ds_large")
    told = Assignment("job_x", 0, "train", 1, (0,), spec, "ds_large", "jobs/job_x/1-0", "mdl_x", Folder(tmp_path),
                      memory_bytes=limit)  # fmt: skip
    said = last_word(told)
    assert isinstance(said, Done), said


def test_a_spec_over_its_limit_is_refused_with_its_estimate(bench: Any) -> None:
    spec = {"dataset": "digits", "architecture": WIDE}
    estimate = resolve(spec, bench._source, Settings()).cost.memory_bytes
    assert estimate > BASE_BYTES
    assert resolve(spec, bench._source, Settings(slot_memory_bytes=int(estimate / 0.8) + 2))
    with pytest.raises(Invalid) as refused:
        resolve(spec, bench._source, Settings(slot_memory_bytes=estimate))
    (flaw,) = refused.value.flaws
    assert (flaw.pointer, flaw.code) == ("/architecture", "cost-limit")
    assert f"about {estimate} bytes of memory; the limit is {int(0.8 * estimate)}" in flaw.message


def test_a_file_of_any_size_takes_blocks_and_encoded_rows_take_memory(bench: Any) -> None:
    network = bench.material("digits").build(None)
    small = Load(rows=10, row_bytes=0, read_bytes=64, train=7, batch=1, epochs=1, max_steps=None, members=1)
    mapped = small._replace(rows=10**6, read_bytes=10**5)  # 100 GB
    few, file, encoded = (cost_of(network, load).memory_bytes for load in (small, mapped, mapped._replace(row_bytes=10**5)))
    assert 2 * BLOCK_BYTES < file - few < 3 * BLOCK_BYTES + 10**6 * 50
    assert encoded - file == 10**11


def test_weights_times_gates_take_memory(bench: Any) -> None:
    gates = [{"type": "l0", "alpha": 1e-3}]
    plain, gated = (
        resolve({"dataset": "digits", "architecture": WIDE, "regularizers": r}, bench._source, Settings()).cost for r in ([], gates)
    )
    weights = 64 * 2048 + 2 * 2048**2 + 2048 * 10
    others = gated.parameters - plain.parameters  # logits, 14 copies of each
    assert gated.memory_bytes - plain.memory_bytes == COMPILER_BYTES + 4 * (weights + 14 * others)


@pytest.mark.parametrize(
    ("penalty", "optimizer", "compiled"),
    [
        ({"type": "l1", "alpha": 1e-3}, "adam", True),
        ({"type": "elastic_net", "l1": 1e-3, "l2": 1e-3}, "adamw", True),
        ({"type": "l1", "alpha": 1e-3}, "sgd", False),
        ({"type": "l2", "alpha": 1e-3}, "adam", False),
        ({"type": "l0", "method": "projection", "keep": 0.5}, "sgd", True),
    ],
)
def test_a_compiler_takes_memory_where_there_is_something_to_compile(bench: Any, penalty: Any, optimizer: str, compiled: bool) -> None:
    fields = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}, "optimizer": {"type": optimizer}}
    plain, penalized = (resolve({**fields, "regularizers": r}, bench._source, Settings()).cost.memory_bytes for r in ([], [penalty]))
    assert penalized - plain == compiled * COMPILER_BYTES


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
