"""Folders that no row needs: removed once they are old; what a row needs, and what is fresh, stays."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service.data import builtin
from service.storage import jobs, models, orphans, shards
from service.storage.files import Folder
from service.storage.ids import new_id
from service.storage.jobs import JobDraft, ShardDraft
from service.storage.sessions import Database
from service.storage.tables import datasets
from tests.storage.test_models import DRAFT

PROJECT = "default"


@pytest.fixture
def store(tmp_path: Path, database: Database) -> Folder:
    """A store with the datasets that every database begins with."""
    (tmp_path / "files").mkdir()
    made = Folder(tmp_path / "files")
    builtin.ensure(database, made)
    return made


def age(store: Folder, database: Database, seconds: float = 2 * orphans.AGE_S) -> None:
    """Let all files look as old as that, and the database older."""
    then = time.time() - seconds
    with database.write() as c:
        store.delete(orphans.MARK)
        c.execute(update(datasets).values(created_at=then - 1))
    for path in (store.root, *store.root.rglob("*")):
        os.utime(path, (then, then))


def test_only_old_folders_without_a_row_are_removed(database: Any, store: Folder) -> None:
    with database.write() as c:
        kept = [jobs.insert(c, PROJECT, JobDraft("train", "n", {}, 1, 1), [ShardDraft("train", (0,))]) for _ in range(2)]
        model = models.insert(c, PROJECT, replace(DRAFT, id=new_id("mdl")), job_id=None, dataset_id=None, labels={})
    with database.write() as c:
        jobs.cancel(c, PROJECT, kept[1])
    gone = [f"jobs/{new_id('job')}", f"models/{new_id('mdl')}", f"datasets/{new_id('ds')}"]
    needed = [*(f"jobs/{job}" for job in kept), f"models/{model.id}"]
    for key in (*gone, *needed):
        store.write(f"{key}/deep/file", b"x")
    assert orphans.collect(store, database) == []
    needed += [f"datasets/{name}" for name in store.folders("datasets") if f"datasets/{name}" not in gone]
    age(store, database)
    fresh = f"models/{new_id('mdl')}"
    store.write(f"{fresh}/file", b"x")
    assert sorted(orphans.collect(store, database)) == sorted(gone)
    assert orphans.collect(store, database) == []
    assert len(needed) > 4
    left = {f"{home}/{name}" for home in ("jobs", "models", "datasets") for name in store.folders(home)}
    assert left == {*needed, fresh}


def test_a_change_deep_in_a_folder_makes_it_fresh(database: Any, store: Folder) -> None:
    key = f"jobs/{new_id('job')}"
    store.write(f"{key}/1/old", b"x")
    age(store, database)
    store.write(f"{key}/1/new", b"x")
    os.utime(store.path(key), (0, 0))
    assert orphans.collect(store, database) == []


def test_a_job_that_succeeded_needs_no_checkpoints(database: Any, store: Folder) -> None:
    with database.write() as c:
        job = jobs.insert(c, PROJECT, JobDraft("train", "n", {}, 1, 1), [ShardDraft("train", (0,))])
        claim = shards.claim(c, "w", 60, max_attempts=3, engine={})
        assert claim is not None
        shards.finish(c, claim, {})
        publish = shards.claim(c, "w", 60, max_attempts=3, engine={})
        assert publish is not None
        shards.publish(c, publish, shards.Outcome(None, {}, None, "epochs"))
    store.write(f"jobs/{job}/000001-0/1.ckpt", b"x")
    age(store, database)
    assert orphans.collect(store, database) == [f"jobs/{job}"]


def test_more_folders_than_one_question_asks_about(database: Any, store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    for _ in range(5):
        (store.root / "models" / new_id("mdl")).mkdir(parents=True)
    age(store, database)
    assert len(orphans.collect(store, database)) == 5
    assert store.folders("models") == {}


def test_another_databases_files_stay(database: Any, store: Folder) -> None:
    strange = store.write(f"models/{new_id('mdl')}/file", b"x")
    os.utime(store.path(strange.key), (1, 1))  # older than the database
    os.utime(store.path(strange.key).parent, (1, 1))
    assert orphans.collect(store, database) == []
    age(store, database)
    store.write("database", b"1000000.000000")
    assert orphans.collect(store, database) == []
    store.delete("database")
    assert orphans.collect(store, database) == [strange.key.rpartition("/")[0]]
    assert store.get("database")
