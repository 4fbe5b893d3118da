"""The life of a shard: claimed once, fenced, given back, finished, and folded into its job."""

import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from service.storage import events, logs, metrics, models, shards
from service.storage.metrics import Metric
from service.storage.models import ModelDraft
from service.storage.shards import Ghost, Outcome
from service.storage.tables import shards as table

PROJECT = "default"
ERROR = {"type": "/problems/trainer-killed", "title": "Trainer killed by SIGKILL", "status": 500, "detail": "…"}
DRAFT = ModelDraft(
    id="mdl_01jzzzzzzzzzzzzzzzzzzzzzzz", name="digits", spec={"a": 1}, signature={"inputs": []}, layers=[], parameters=10,
    metrics={"test": {"accuracy": float("nan")}}, members=1, files={"spec.json": {"key": "k", "size": 1, "sha256": "0"}}, sha256="0",
)  # fmt: skip
OUTCOME = Outcome(DRAFT, {"rows": 3}, {"metric": "loss", "value": 0.1, "epoch": 3}, "epochs")


def history(desk: Any, job: str, *kinds: str) -> list[Any]:
    with desk.database.read() as c:
        return [event for event in events.after(c, PROJECT, job, 0) if not kinds or event.kind in kinds]


def states(desk: Any, job: str) -> list[tuple[str, str | None]]:
    return [(event.data["state"], event.data["reason"]) for event in history(desk, job, "state")]


def lapse(desk: Any, claim: shards.Claim) -> None:
    """Let the claim's lease run out."""
    with desk.database.write() as c:
        where = (table.c.job_id == claim.job_id, table.c.number == claim.number)
        c.execute(update(table).where(*where).values(lease=0.0))


def progress(**more: Any) -> dict[str, Any]:
    return {"fraction": 0.5, "epoch": 2, "members_done": 0, "eta_s": 9.0, "phase": "training", "best": None} | more


def test_claims_go_by_priority_then_age(desk: Any) -> None:
    low, first, second, high = (desk.submit(priority=p) for p in (-1, 0, 0, 5))
    assert [desk.grab().job_id for _ in range(4)] == [high, first, second, low]
    assert desk.claim() is None


def test_a_job_runs_from_end_to_end(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    write = desk.database.write
    assert (desk.job(job).state, desk.job(job).phase, desk.job(job).version) == ("queued", "waiting", 1)
    one, two = desk.grab(), desk.grab("b")
    assert (one.number, two.number, one.members, two.members, one.kind) == (0, 1, (0,), (1,), "train")
    assert desk.job(job).state == "running"
    with write() as c:
        shards.record(
            c, one, progress=progress(best={"metric": "loss", "value": 0.4, "epoch": 1}), values=[Metric(0, 1, "train.loss", 0.4)]
        )
    with write() as c:
        shards.finish(c, one, {"n": 0})
    assert (desk.job(job).state, desk.claim()) == ("running", None)
    with write() as c:
        shards.finish(c, two, {"n": 1})
    assert (desk.job(job).state, desk.job(job).phase) == ("running", "publishing")
    last = desk.grab()
    assert (last.kind, last.number, last.results) == ("publish", 2, ({"n": 0}, {"n": 1}))
    with write() as c:
        assert shards.publish(c, last, OUTCOME)
    done = desk.job(job)
    assert (done.state, done.done, done.phase, done.model_id, done.stop_reason) == ("succeeded", True, None, DRAFT.id, "epochs")
    assert done.progress == {"fraction": 1.0, "epoch": 2, "epochs": 4, "members_done": 2, "members": 2, "eta_s": None}
    assert done.best == OUTCOME.best
    assert done.result == {"rows": 3}
    assert done.created_at <= done.started_at <= done.heartbeat_at <= done.finished_at
    assert states(desk, job) == [("queued", None), ("running", None), ("succeeded", None)]
    assert history(desk, job)[-1].kind == "end"
    with desk.database.read() as c:
        model = models.get(c, PROJECT, "digits")
    assert (model.version, model.job_id, model.metrics) == (1, job, {"test": {"accuracy": None}})
    assert desk.claim() is None


def test_every_ghost_write_is_refused(desk: Any) -> None:
    job = desk.submit()
    old = desk.grab("a")
    lapse(desk, old)
    new = desk.grab("b")
    assert (new.job_id, new.fence) == (job, old.fence + 1)
    writes: list[Any] = [
        lambda c: shards.heartbeat(c, old, 30.0),
        lambda c: shards.record(c, old, progress=progress()),
        lambda c: shards.record(c, old, lines=[("info", "boo")]),
        lambda c: shards.checkpoint(c, old, {}),
        lambda c: shards.finish(c, old, {}),
        lambda c: shards.publish(c, old, OUTCOME),
        lambda c: shards.fail(c, old, ERROR, retryable=False, max_attempts=3),
        lambda c: shards.cancel(c, old),
        lambda c: shards.release(c, old),
    ]
    before = (desk.job(job), history(desk, job))
    for write in writes:
        with pytest.raises(Ghost), desk.database.write() as c:
            write(c)
    assert (desk.job(job), history(desk, job)) == before
    with desk.database.read() as c:
        assert not shards.orders(c, old).alive
        assert shards.orders(c, new) == shards.Orders(alive=True, cancel=False, stop=False)


def test_a_takeover_tells_of_the_lost_worker(desk: Any) -> None:
    job = desk.submit()
    lapse(desk, desk.grab("a"))
    desk.grab("b")
    assert states(desk, job) == [("queued", None), ("running", None), ("queued", "worker lost"), ("running", None)]
    assert (desk.job(job).state, desk.job(job).attempt) == ("running", 2)


def test_reconciling_gives_back_and_at_last_fails(desk: Any) -> None:
    job = desk.submit()
    for attempt in (1, 2, 3):
        lapse(desk, desk.grab())
        assert desk.reconcile() == 1
        assert desk.job(job).attempt == attempt
        if attempt < 3:
            assert (desk.job(job).state, desk.job(job).reason) == ("queued", "worker lost")
    failed = desk.job(job)
    assert (failed.state, failed.error["type"], failed.error["retryable"]) == ("failed", "/problems/worker-lost", True)
    assert desk.claim() is None
    assert desk.reconcile() == 0


def test_the_claim_leaves_a_poisonous_shard_to_the_reconciler(desk: Any) -> None:
    desk.submit()
    for _ in range(3):
        lapse(desk, desk.grab())
    assert desk.claim() is None


def test_a_lost_worker_beside_a_living_one(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    lost, _ = desk.grab("a"), desk.grab("b")
    lapse(desk, lost)
    before = desk.job(job).version
    desk.reconcile()
    assert desk.job(job).state == "running"
    assert desk.job(job).version > before
    assert states(desk, job)[2:] == [("queued", "worker lost"), ("running", None)]


def test_a_takeover_below_the_highest_attempt_is_told_too(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    for _ in range(2):  # shard 0 is at its third attempt
        claim = desk.grab()
        with desk.database.write() as c:
            shards.release(c, claim)
    high, low = desk.grab(), desk.grab()
    assert (high.number, low.number, desk.job(job).attempt) == (0, 1, 3)
    told = len(states(desk, job))
    lapse(desk, low)
    desk.grab("b")
    assert states(desk, job)[told:] == [("queued", "worker lost"), ("running", None)]


def test_a_checkpoint_forgives_and_is_handed_on(desk: Any) -> None:
    job = desk.submit()
    for n in range(6):
        claim = desk.grab()
        assert claim.checkpoint == (None if n == 0 else {"epoch": n - 1})
        with desk.database.write() as c:
            shards.checkpoint(c, claim, {"epoch": n})
        with desk.database.write() as c:
            assert shards.fail(c, claim, ERROR, retryable=True, max_attempts=3)
    assert desk.job(job).attempt == 6


def test_failures_without_a_checkpoint_end_the_job(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    sibling = None
    for n in (1, 2, 3):
        claim = desk.grab()
        if n == 1:
            sibling = desk.grab("b")
        with desk.database.write() as c:
            shards.record(c, claim, lines=[("error", f"line\0 {n}")])
            assert shards.fail(c, claim, ERROR, retryable=True, max_attempts=3) == (n < 3)
        if n < 3:
            assert (desk.job(job).state, desk.job(job).reason) == ("running", ERROR["title"])
    failed = desk.job(job)
    assert (failed.state, failed.error) == ("failed", {**ERROR, "retryable": True, "log": ["line 1", "line 2", "line 3"]})
    assert sibling is not None
    with desk.database.read() as c:
        assert shards.orders(c, sibling).cancel
    with desk.database.write() as c:
        shards.release(c, sibling)  # comes back to a job that has ended
    assert desk.claim() is None
    assert desk.job(job) == failed


def test_what_would_happen_again_is_not_tried_again(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    claim = desk.grab()
    with desk.database.write() as c:
        assert not shards.fail(c, claim, ERROR, retryable=False, max_attempts=3)
    assert desk.job(job).state == "failed"
    assert desk.claim() is None


def test_a_drain_is_not_counted(desk: Any) -> None:
    job = desk.submit()
    for _ in range(5):
        claim = desk.grab()
        with desk.database.write() as c:
            shards.release(c, claim)
        assert (desk.job(job).state, desk.job(job).reason) == ("queued", "worker drained")
    assert desk.grab().fence == 6


def test_the_engine_of_the_first_claim_stays(desk: Any) -> None:
    desk.submit()
    with desk.database.write() as c:
        first = shards.claim(c, "a", 30.0, max_attempts=3, engine={"threads": 7})
        assert first is not None
        shards.release(c, first)
    assert (first.engine, desk.grab().engine) == ({"threads": 7}, {"threads": 7})


def test_progress_is_folded_over_members(desk: Any) -> None:
    job = desk.submit(members=4, parts=2)
    one, two = desk.grab(), desk.grab()
    with desk.database.write() as c:
        shards.record(
            c, one, progress=progress(fraction=0.8, epoch=3, members_done=1, best={"metric": "accuracy", "value": 0.9, "epoch": 2})
        )
    with desk.database.write() as c:
        shards.heartbeat(c, two, 30.0, progress(fraction=0.2, epoch=1, eta_s=4.0, best={"metric": "accuracy", "value": 0.8, "epoch": 1}))
        shards.finish(c, replace(one), {})
    folded = desk.job(job)
    assert folded.progress == {"fraction": 0.6, "epoch": 1, "epochs": 4, "members_done": 2, "members": 4, "eta_s": 4.0}
    assert folded.best == {"metric": "accuracy", "value": 0.9, "epoch": 2}


def test_progress_is_folded_at_most_twice_a_second(desk: Any) -> None:
    job = desk.submit()
    claim = desk.grab()
    time.sleep(0.55)
    began = time.monotonic()
    for n in range(20):
        with desk.database.write() as c:
            shards.record(c, claim, progress=progress(fraction=n / 20))
    assert len(history(desk, job, "progress")) - 1 <= 1 + (time.monotonic() - began) / 0.5


def test_versions_and_events_rise_by_one(desk: Any) -> None:
    job = desk.submit()
    seen = [desk.job(job).version]
    claim = desk.grab()
    seen.append(desk.job(job).version)
    for n in range(5):
        with desk.database.write() as c:
            shards.record(c, claim, progress=progress(fraction=n / 5), values=[Metric(0, n, "loss", n / 3)], lines=[("info", str(n))])
        seen.append(desk.job(job).version)
    with desk.database.write() as c:
        shards.finish(c, claim, {})
    seen.append(desk.job(job).version)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]
    assert [event.number for event in history(desk, job)] == [*range(1, len(history(desk, job)) + 1)]
    with desk.database.read() as c:
        assert [line.message for line in logs.read(c, PROJECT, job)] == ["0", "1", "2", "3", "4"]
        assert events.after(c, "another", job, 0) == []
        assert [event.number for event in events.after(c, PROJECT, job, 3)][:2] == [4, 5]


def test_an_epoch_trained_again_overwrites_its_values(desk: Any) -> None:
    job = desk.submit()
    claim = desk.grab()
    for value in (1.0, 2.0, float("inf")):
        with desk.database.write() as c:
            shards.record(c, claim, values=metrics.finite([(0, 1, "loss", value), (0, 2, "loss", 5.0)]))
        with desk.database.read() as c:
            first, second = metrics.read(c, PROJECT, job, name="loss", member=0)
        assert first.value == (value if value < 3 else None)
        assert second == (0, 2, "loss", 5.0)


def test_old_progress_is_thinned(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT_PROGRESS", 10)
    job = desk.submit()
    with desk.database.write() as c:
        for n in range(450):
            events.append(c, PROJECT, job, "log" if n % 50 == 0 else "progress", {"n": n})
    with desk.database.read() as c:
        kept = events.after(c, PROJECT, job, 0, limit=1000)
    assert len([event for event in kept if event.kind == "log"]) == 9
    assert 10 <= len([event for event in kept if event.kind == "progress"]) <= 10 + 200
    assert kept[-1].data == {"n": 449}
