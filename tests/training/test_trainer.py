"""Trainers as their supervisor sees them: real processes, ordered over their pipes, and what is published in the end."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.storage.files import Folder
from workers.children import Trainers
from workers.messages import DRAIN, STOP, Assignment, Checkpointed, Done, Drained, Failed, Metrics, Progress
from workers.supervisor import ENTRY, PRELOAD

Work = Callable[..., list[Any]]
SPEC: dict[str, Any] = {
    "ensemble": {"size": 2},
    "epochs": 2,
    "batch_size": 1,
    "optimizer": {"type": "sgd", "learning_rate": 1e-4},
    "early_stopping": {"monitor": "label.accuracy"},
}


@pytest.fixture(scope="module")
def trainers() -> Trainers:
    return Trainers(ENTRY, PRELOAD)


@pytest.fixture
def work(bench: Any, trainers: Trainers, tmp_path: Path) -> Work:
    """Runs one shard in a trainer of its own; `orders` lie in its pipe before it begins."""
    spec, store = bench.material("digits", **SPEC).spec.dump(), Folder(tmp_path)
    shutil.copytree(bench.folder / "digits", tmp_path / "datasets" / "ds_digits")

    def run(kind: str, shard: int, *, results: Sequence[Any] = (), orders: Sequence[str] = ()) -> list[Any]:
        members = (shard,) if kind == "train" else ()
        told = Assignment(
            "job_x", shard, kind, 1, members, spec, "ds_digits", f"jobs/job_x/{shard}", "mdl_x", store, results=tuple(results)
        )  # fmt: skip
        trainer = trainers.start(told)
        for order in orders:
            trainer.order(order)
        found: list[Any] = []
        while not trainer.silent:
            found += trainer.receive(1.0)
        trainer.end()
        return found

    return run


def test_a_stop_that_leaves_a_member_without_an_epoch_gives_the_reason(work: Work) -> None:
    """Also where all the others went on to their last epoch; and the series are called by one name everywhere."""
    whole, cut = work("train", 0), work("train", 1, orders=[STOP + "time_limit"])
    assert [summary["stop_reason"] for summary in whole[-1].result["members"]] == ["epochs"]
    assert cut[-1] == Done({"members": [], "ordered": "time_limit"})
    done = work("publish", 2, results=[whole[-1].result, cut[-1].result])[-1].result
    assert done["stop_reason"] == "time_limit"
    assert done["model"]["members"] == 1
    best = done["best"]
    assert best["metric"] == "validation.accuracy"
    series = {row[1]: row[3] for message in whole if isinstance(message, Metrics) for row in message.rows if row[2] == best["metric"]}
    assert series[best["epoch"]] == best["value"] == max(series.values())
    shown = [message.best for message in whole if isinstance(message, Progress) and message.best]
    assert {seen["metric"] for seen in shown} == {"validation.accuracy"}


def test_a_stop_before_any_epoch_publishes_nothing(work: Work) -> None:
    cut = [work("train", member, orders=[STOP + "user_stop"])[-1].result for member in range(2)]
    done = work("publish", 2, results=cut)[-1].result
    assert (done["model"], done["best"], done["stop_reason"]) == (None, None, "user_stop")


def test_rows_without_what_is_monitored_are_named(bench: Any, trainers: Trainers, tmp_path: Path) -> None:
    """Of a job that was accepted by somebody who did not look: the failure says what is not there."""
    rows = range(40)
    labels = ["" if 30 <= row < 36 else "ab"[row % 2] for row in rows]
    name = bench.table("unlabelled", {"a": list(rows), "y": labels})
    spec = bench.material("unlabelled", split={"test_rows": list(range(36, 40))}, early_stopping=None).spec.dump()
    spec |= {"early_stopping": {"monitor": "y.auroc"}, "split": {"validation_rows": list(range(30, 36)), "test": 0.1}}
    shutil.copytree(bench.folder / name, tmp_path / "datasets" / "ds_unlabelled")
    told = Assignment("job_y", 0, "train", 1, (0,), spec, "ds_unlabelled", "jobs/job_y/0", "mdl_y", Folder(tmp_path))
    trainer, found = trainers.start(told), list[Any]()
    while not trainer.silent:
        found += trainer.receive(1.0)
    trainer.end()
    assert isinstance(found[-1], Failed)
    assert not found[-1].retryable
    assert found[-1].error["type"] == "/problems/inconsistent-spec"
    assert "auroc is not defined on the 6 validation rows: none of them has a label of 'y'" in found[-1].error["detail"]


def test_a_drain_leaves_a_checkpoint(work: Work) -> None:
    said = work("train", 0, orders=[DRAIN])
    assert isinstance(said[-1], Drained)
    (kept,) = [message.record for message in said if isinstance(message, Checkpointed)]
    assert (kept["members"], kept["epoch"]) == ([0], 0)
