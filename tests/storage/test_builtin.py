"""Built-in datasets of services on machines of their own, which share a database and a store but no lock."""

import threading
from pathlib import Path

from service.data import builtin
from service.storage import datasets
from service.storage.datasets import DatasetDraft
from service.storage.files import Folder
from service.storage.ids import new_id
from service.storage.sessions import Database


def test_machines_at_once_create_them_once(database: Database, tmp_path: Path) -> None:
    stores = [Folder(tmp_path / name) for name in ("one", "two")]
    starts = [threading.Thread(target=builtin.ensure, args=(database, store)) for store in stores]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    with database.read() as c:
        found = datasets.page(c, "default", limit=10, cursor=None).items
    assert sorted(dataset.name for dataset in found) == ["diabetes", "digits"]
    kept = [path.name for store in stores for path in store.path("datasets").iterdir()]
    assert sorted(kept) == sorted(dataset.id for dataset in found)


def test_the_slower_one_waits_and_then_leaves_it(database: Database) -> None:
    said: list[bool] = []

    def insert(dataset_id: str) -> None:
        with database.write() as c:
            said.append(builtin._insert(c, "default", draft(dataset_id)))

    slower = threading.Thread(target=insert, args=(new_id("ds"),))
    with database.write() as c:
        assert builtin._insert(c, "default", draft(new_id("ds")))
        slower.start()
        slower.join(0.5)
        assert said == []
    slower.join()
    assert said == [False]


def draft(dataset_id: str) -> DatasetDraft:
    return DatasetDraft(dataset_id, "digits", "npz", 1, 1, "0", {}, {}, builtin=True)
