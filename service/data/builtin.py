"""The datasets that are always there: `digits` and `diabetes`."""

import fcntl
import hashlib
import shutil
from pathlib import Path

from service.data.columns import DESCRIPTION
from service.data.fields import Description
from service.data.ingest import run
from service.data.staging import dataset_key
from service.errors import TemperError
from service.storage import datasets
from service.storage.datasets import DatasetDraft
from service.storage.files import Folder
from service.storage.ids import new_id
from service.storage.sessions import Database

NAMES = ("digits", "diabetes")
SECONDS = 120.0


def ensure(database: Database, folder: Folder, project: str = "default") -> None:
    """Create the built-in datasets that the project does not have yet; raises TemperError where they cannot be read."""
    folder.root.mkdir(parents=True, exist_ok=True)
    # Several services may start at once; what they share is this folder.
    with (folder.root / ".builtin.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in NAMES:
            if not _present(database, project, name):
                _create(database, folder, project, name)


def _present(database: Database, project: str, name: str) -> bool:
    cursor = None
    while True:
        with database.read() as c:
            page = datasets.page(c, project, limit=200, cursor=cursor, name=name)
        if any(dataset.builtin for dataset in page.items):
            return True
        if (cursor := page.next_cursor) is None:
            return False


def _create(database: Database, folder: Folder, project: str, name: str) -> None:
    dataset_id = new_id("ds")
    home = folder.path(dataset_key(dataset_id))
    home.mkdir(parents=True)
    done = run("service.data.builtin_rows", (name, str(home)), b"", seconds=SECONDS)
    if done.returncode:
        shutil.rmtree(home)
        raise TemperError(f"The built-in dataset {name} cannot be read.")
    description = Description.model_validate_json((home / DESCRIPTION).read_bytes())
    size, digest = _measured(home)
    draft = DatasetDraft(
        id=dataset_id, name=name, format=description.format, rows=description.rows, size=size, sha256=digest,
        description=description.dump(), labels={}, builtin=True,
    )  # fmt: skip
    with database.write() as c:
        datasets.insert(c, project, draft)


def _measured(home: Path) -> tuple[int, str]:
    """Bytes of the columns, and the SHA-256 over them in their order."""
    size, digest = 0, hashlib.sha256()
    for path in sorted((home / "columns").iterdir(), key=lambda path: int(path.stem)):
        values = path.read_bytes()
        size += len(values)
        digest.update(values)
    return size, digest.hexdigest()
