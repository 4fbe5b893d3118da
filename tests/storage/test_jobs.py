"""Jobs as their users see them: listed, cancelled, stopped, tried again and deleted, in each state."""

from typing import Any

import pytest
from sqlalchemy import func, select, update

from service.errors import BadCursor, Conflict, NotFound
from service.storage import datasets, events, jobs, shards
from service.storage.datasets import DatasetDraft
from service.storage.ids import new_id
from service.storage.jobs import Filters
from service.storage.shards import Outcome
from service.storage.tables import shards as table

PROJECT = "default"
ERROR = {"type": "/problems/training-failed", "title": "Training failed", "status": 500, "detail": "…"}


def in_state(desk: Any, state: str, **more: Any) -> str:
    """A job brought to that state."""
    job: str = desk.submit(**more)
    if state == "queued":
        return job
    claim = desk.grab()
    with desk.database.write() as c:
        if state == "failed":
            shards.fail(c, claim, ERROR, retryable=False, max_attempts=3)
        elif state == "succeeded":
            shards.finish(c, claim, {})
            last = shards.claim(c, "a", 30.0, max_attempts=3, engine={})
            assert last is not None
            shards.publish(c, last, Outcome(None, {}, None, None))
        elif state in ("cancelling", "cancelled"):
            jobs.cancel(c, PROJECT, job)
            if state == "cancelled":
                shards.cancel(c, claim)
    assert desk.job(job).state == state
    return job


def ask(desk: Any, what: Any, job: str) -> Any:
    with desk.database.write() as c:
        return what(c, PROJECT, job)


def slug(desk: Any, what: Any, job: str) -> str:
    with pytest.raises(Conflict) as caught:
        ask(desk, what, job)
    return caught.value.slug


def test_cancel_in_each_state(desk: Any) -> None:
    for state, after in (("queued", "cancelled"), ("running", "cancelling"), ("cancelling", "cancelling")):
        job = in_state(desk, state)
        assert ask(desk, jobs.cancel, job) is True
        assert desk.job(job).state == after
    assert ask(desk, jobs.cancel, in_state(desk, "cancelled")) is False
    assert slug(desk, jobs.cancel, in_state(desk, "succeeded")) == "already-terminal"
    assert slug(desk, jobs.cancel, in_state(desk, "failed")) == "already-terminal"


def test_stop_in_each_state(desk: Any) -> None:
    assert slug(desk, jobs.stop, in_state(desk, "cancelling")) == "not-running"
    for state in ("succeeded", "failed", "cancelled"):
        assert slug(desk, jobs.stop, in_state(desk, state)) == "already-terminal"
    job = in_state(desk, "running")
    ask(desk, jobs.stop, job)
    ask(desk, jobs.stop, job)
    assert desk.job(job).stop_requested_at is not None
    assert slug(desk, jobs.stop, in_state(desk, "queued")) == "not-running"


def test_retry_in_each_state(desk: Any) -> None:
    for state in ("running", "cancelling", "succeeded"):
        assert slug(desk, jobs.retry, in_state(desk, state)) == "not-retryable"
    for state in ("failed", "cancelled"):
        job = in_state(desk, state)
        ask(desk, jobs.retry, job)
        again = desk.job(job)
        assert (again.state, again.error, again.finished_at, again.cancel_requested_at) == ("queued", None, None, None)
        assert desk.grab().job_id == job
    assert slug(desk, jobs.retry, in_state(desk, "queued")) == "not-retryable"


def test_delete_in_each_state(desk: Any) -> None:
    for state in ("running", "cancelling"):
        assert slug(desk, jobs.delete, in_state(desk, state)) == "job-running"
    for state in ("succeeded", "failed", "cancelled"):
        job = in_state(desk, state)
        ask(desk, jobs.delete, job)
        with pytest.raises(NotFound):
            desk.job(job)
        with desk.database.read() as c:
            assert events.after(c, PROJECT, job, 0) == []
            assert c.execute(select(func.count()).where(table.c.job_id == job)).scalar_one() == 0
    assert slug(desk, jobs.delete, in_state(desk, "queued")) == "job-running"


def test_a_cancel_that_comes_first_publishes_nothing(desk: Any) -> None:
    job = desk.submit()
    claim = desk.grab()
    with desk.database.write() as c:
        shards.finish(c, claim, {})
    last = desk.grab()
    ask(desk, jobs.cancel, job)
    with desk.database.write() as c:
        assert not shards.publish(c, last, Outcome(None, {"x": 1}, None, "epochs"))
    assert (desk.job(job).state, desk.job(job).result) == ("cancelled", None)


def test_a_cancel_needs_no_living_worker(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    desk.grab(lease_s=-1.0)
    ask(desk, jobs.cancel, job)
    assert desk.job(job).state == "cancelling"
    assert desk.claim() is None
    desk.reconcile()
    assert desk.job(job).state == "cancelled"


def test_a_cancelled_job_says_how_far_it_came(desk: Any) -> None:
    """Of four shards one is learnt, one is half way, one never reported and one never began."""
    job = desk.submit(members=8, parts=4)
    first, second, third = desk.grab("a"), desk.grab("b"), desk.grab("c")
    half = {"fraction": 0.5, "epoch": 3, "members_done": 1, "eta_s": 9.0, "phase": "training", "best": None}
    with desk.database.write() as c:
        shards.finish(c, first, {})
        shards.record(c, second, progress=half)
        jobs.cancel(c, PROJECT, job)
    assert (desk.job(job).state, desk.job(job).progress["members_done"]) == ("cancelling", 3)
    for claim in (second, third):
        with desk.database.write() as c:
            shards.cancel(c, claim)
    found = desk.job(job)
    assert (found.state, found.progress["fraction"], found.progress["members_done"], found.progress["eta_s"]) == (
        "cancelled",
        0.375,
        3,
        None,
    )


def test_a_stop_leaves_out_what_never_began(desk: Any) -> None:
    job = desk.submit(members=3, parts=3)
    claim = desk.grab()
    ask(desk, jobs.stop, job)
    with desk.database.read() as c:
        assert shards.orders(c, claim).stop
    assert desk.claim() is None
    with desk.database.write() as c:
        shards.finish(c, claim, {"n": 0})
    last = desk.grab()
    assert (last.kind, last.results) == ("publish", ({"n": 0},))


def test_a_retry_goes_on_from_its_checkpoint(desk: Any) -> None:
    job = desk.submit(members=2, parts=2)
    one, two = desk.grab(), desk.grab()
    with desk.database.write() as c:
        shards.finish(c, one, {"n": 0})
        shards.checkpoint(c, two, {"epoch": 3})
        shards.fail(c, two, ERROR, retryable=False, max_attempts=3)
    ask(desk, jobs.retry, job)
    again = desk.grab()
    assert (again.number, again.checkpoint, again.fence) == (1, {"epoch": 3}, 2)
    assert desk.claim() is None


def test_pages_are_whole_and_newest_first(desk: Any) -> None:
    made = [desk.submit() for _ in range(7)][::-1]
    found, cursor = [], None
    with desk.database.read() as c:
        while True:
            page = jobs.page(c, PROJECT, limit=3, cursor=cursor)
            found += [job.id for job in page.items]
            if (cursor := page.next_cursor) is None:
                break
    assert found == made


def test_a_cursor_of_another_make_is_refused(desk: Any) -> None:
    for _ in range(3):
        desk.submit()
    with desk.database.read() as c:
        cursor = jobs.page(c, PROJECT, limit=1, cursor=None).next_cursor
        assert cursor is not None
        for wrong in ("", "x", "é", "a" * 5000, cursor[:-1], cursor + "A", ("B" if cursor[0] == "A" else "A") + cursor[1:], cursor[:20]):
            with pytest.raises(BadCursor):
                jobs.page(c, PROJECT, limit=1, cursor=wrong)
        with pytest.raises(BadCursor):
            jobs.page(c, "another", limit=1, cursor=cursor)
        with pytest.raises(BadCursor):
            datasets.page(c, PROJECT, limit=1, cursor=cursor)


def test_lists_filter(desk: Any) -> None:
    a = desk.submit(name="a", labels={"team": "x", 'q"': "y"})
    b = desk.submit(name="b", labels={"team": "y"})
    desk.grab()
    with desk.database.read() as c:

        def found(**wanted: Any) -> list[str]:
            return [job.id for job in jobs.page(c, PROJECT, limit=10, cursor=None, filters=Filters(**wanted)).items]

        assert found(name="a") == [a]
        assert found(state="queued") == [b]
        assert found(kind="train") == [b, a]
        assert found(labels=(("team", "x"),)) == [a]
        assert found(labels=(("team", "x"), ("team", "y"))) == []
        assert found(labels=(('q"', "y"),)) == []
        assert found(name="c\n'") == []


@pytest.mark.parametrize("wrong", ["", "job_", "ds_01jzzzzzzzzzzzzzzzzzzzzzzz", "job_\0", "job_" + "9" * 5000, "job_../x", "job_01JZZZ"])
def test_what_is_no_id_is_not_found(desk: Any, wrong: str) -> None:
    with pytest.raises(NotFound):
        desk.job(wrong)


def test_another_projects_job_is_not_found(desk: Any) -> None:
    job = desk.submit()
    for what in (jobs.get, jobs.cancel, jobs.stop, jobs.retry, jobs.delete):
        with pytest.raises(NotFound), desk.database.write() as c:
            what(c, "another", job)


def test_queue_positions(desk: Any) -> None:
    low, first, high = (desk.submit(priority=p) for p in (-5, 0, 5))
    with desk.database.read() as c:
        assert [jobs.queue_position(c, desk.job(job)) for job in (high, first, low)] == [1, 2, 3]
    desk.grab()
    with desk.database.read() as c:
        assert [jobs.queue_position(c, desk.job(job)) for job in (high, first, low)] == [None, 1, 2]


def test_a_dataset_in_use_stays(desk: Any) -> None:
    draft = DatasetDraft(new_id("ds"), "mine", "csv", 3, 10, "0", {"fields": []}, {})
    with desk.database.write() as c:
        made = datasets.insert(c, PROJECT, draft)
    job = desk.submit(dataset_id=made.id)
    assert slug(desk, datasets.delete, "mine") == "dataset-in-use"
    ask(desk, jobs.cancel, job)
    assert ask(desk, datasets.delete, made.id) == made
    assert desk.job(job).dataset_id == made.id
    with pytest.raises(Conflict) as caught:
        desk.submit(dataset_id=made.id)
    assert caught.value.slug == "dataset-deleted"
    assert slug(desk, jobs.retry, job) == "dataset-deleted"
    for extra in ({"models": ["mdl_gone"]}, {"model": "mdl_gone"}):
        other = desk.submit(extra=extra)
        ask(desk, jobs.cancel, other)
        assert slug(desk, jobs.retry, other) == "model-deleted"
        assert desk.job(other).state == "cancelled"


def test_a_dataset_name_is_its_newest(desk: Any) -> None:
    with desk.database.write() as c:
        one, two = (
            datasets.insert(c, PROJECT, DatasetDraft(new_id("ds"), "mine", "csv", 3, 2**40, "0", {"n": n}, {}, builtin=n == 1))
            for n in (0, 1)
        )
        assert datasets.get(c, PROJECT, "mine") == two
        assert datasets.get(c, PROJECT, one.id) == one
        assert [row.id for row in datasets.page(c, PROJECT, limit=1, cursor=None).items] == [two.id]
        for wrong in ("nobody", "MINE", "ds_x", "\0"):
            with pytest.raises(NotFound):
                datasets.get(c, PROJECT, wrong)
    assert slug(desk, datasets.delete, "mine") == "dataset-builtin"


def test_elapsed_counts_from_the_first_claim(desk: Any) -> None:
    job = desk.submit()
    first = desk.grab()
    with desk.database.write() as c:
        shards.release(c, first)
        c.execute(update(jobs.jobs).where(jobs.jobs.c.id == job).values(started_at=jobs.jobs.c.started_at - 100))
    assert first.elapsed_s == 0
    assert 100 <= desk.grab().elapsed_s < 110
