"""Datasets as the client sees them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from temper.requests import exchange, fetch, pages
from temper.steps import R, Resource, Send, Steps, operation
from temper.stored import Stored

PATH = "/api/v1/datasets"
UPLOAD_S = 3600.0


class Dataset(Stored[R]):
    """A stored dataset; its name is not unique and means the newest; `data` is all that the service says about it."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.data["rows"])

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The fields: name, kind, shape, missing, and min, max, mean, std or classes."""
        return list(self.data["fields"])

    def __repr__(self) -> str:
        return f"Dataset({self.id!r}, {self.name!r}, {self.rows} rows)"

    @operation
    def head(self, limit: int = 5, *, offset: int = 0) -> Steps[list[dict[str, Any]]]:
        """Rows from `offset` on, each as {"row", "values"}."""
        page = yield from fetch(f"{PATH}/{self.id}/rows", limit=limit, offset=offset)
        return list(page["items"])

    @operation
    def delete(self) -> Steps[None]:
        """Deletes the dataset; raises `Conflict` while a job uses it."""
        yield from exchange(Send("DELETE", f"{PATH}/{self.id}"))


class Datasets(Resource[R]):
    """All datasets."""

    @operation
    def upload(self, file: str | Path, name: str | None = None, *, schema: Mapping[str, Any] | None = None) -> Steps[Dataset[R]]:
        """Uploads a CSV, Parquet or NPZ file or a ZIP of class folders; `name` is the file's stem unless given."""
        path = Path(file)
        form = {"name": name or path.stem} | ({} if schema is None else {"schema": json.dumps(schema)})
        headers = {"Idempotency-Key": uuid4().hex}
        response = yield from exchange(Send("POST", PATH, headers=headers, repeatable=True, timeout_s=UPLOAD_S, file=path, form=form))
        return Dataset(self.runner, response.json())

    @operation
    def get(self, ref: str) -> Steps[Dataset[R]]:
        """The dataset of an id or a name; raises `NotFound`."""
        return Dataset(self.runner, (yield from fetch(f"{PATH}/{ref}")))

    @operation
    def list(self, *, limit: int = 50) -> Steps[Sequence[Dataset[R]]]:
        """The newest datasets, at most `limit` of them."""
        items = yield from pages(PATH, limit)
        return [Dataset(self.runner, item) for item in items]
