"""A job that ended: workers of it that do not know so yet, and users who want it to go on."""

from typing import Any

import pytest

from service.storage import events, jobs, logs, metrics, shards
from service.storage.metrics import Metric
from service.storage.shards import Ghost, Outcome

PROJECT = "default"
ERROR = {"type": "/problems/training-failed", "title": "Training failed", "status": 500, "detail": "…"}


def test_the_end_is_the_last_event(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    one, two = desk.grab("a"), desk.grab("b")
    with desk.database.write() as c:
        shards.fail(c, one, ERROR, retryable=False, max_attempts=3)
    with desk.database.write() as c:  # the other worker has not heard of it
        shards.record(c, two, values=[Metric(1, 1, "loss", 0.5)], lines=[("info", "late")])
    with desk.database.read() as c:
        assert events.after(c, PROJECT, job, 0)[-1].kind == "end"
        assert len(metrics.read(c, PROJECT, job)) == 1  # what it learnt is kept
        assert [line.message for line in logs.read(c, PROJECT, job)] == ["late"]


def left_out_and_failed(desk: Any) -> tuple[str, shards.Claim]:
    """A job whose second half a stop left out, and whose publisher, that of the claim, then failed."""
    job: str = desk.submit(members=2, parts=2)
    first = desk.grab()
    with desk.database.write() as c:
        jobs.stop(c, PROJECT, job)
        shards.finish(c, first, {"n": 0})
    publisher = desk.grab()
    assert publisher.kind == "publish"
    with desk.database.write() as c:
        shards.fail(c, publisher, ERROR, retryable=False, max_attempts=3)
    return job, publisher


def test_members_are_done_that_a_stop_left_something_of(desk: Any) -> None:
    """Of three shards one kept one of its two members, one kept none, and one never began."""
    job = desk.submit(members=6, parts=3)
    first, second = desk.grab("a"), desk.grab("b")
    with desk.database.write() as c:
        jobs.stop(c, PROJECT, job)
        shards.finish(c, first, {"members": [{"member": 0}], "ordered": "user_stop"})
        shards.finish(c, second, {"members": [], "ordered": "user_stop"})
    assert desk.job(job).progress["members_done"] == 1
    last = desk.grab()
    with desk.database.write() as c:
        assert shards.publish(c, last, Outcome(None, {}, None, "user_stop"))
    ended = desk.job(job)
    assert (ended.state, ended.progress["members_done"], ended.progress["members"]) == ("succeeded", 1, 6)


def test_a_retry_publishes_after_what_a_stop_had_left_out(desk: Any) -> None:
    job, ghost = left_out_and_failed(desk)
    with desk.database.write() as c:
        jobs.retry(c, PROJECT, job)
    rest = desk.grab()
    assert (rest.kind, rest.number) == ("train", 1)
    assert desk.claim() is None  # nothing is published before all is learnt
    with pytest.raises(Ghost), desk.database.write() as c:
        shards.publish(c, ghost, Outcome(None, {}, None, None))
    with desk.database.write() as c:
        shards.finish(c, rest, {"n": 1})
    assert desk.job(job).phase == "publishing"
    last = desk.grab()
    assert (last.kind, last.results) == ("publish", ({"n": 0}, {"n": 1}))
    assert last.fence > ghost.fence
    with desk.database.write() as c:
        assert shards.publish(c, last, Outcome(None, {}, None, None))
    assert desk.job(job).state == "succeeded"
