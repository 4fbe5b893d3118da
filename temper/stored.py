"""What the service keeps, as the client sees it."""

from collections.abc import Mapping
from typing import Any

from temper.steps import R, Resource


class Stored(Resource[R]):
    """Something that the service keeps; `data` is all that the service says about it."""

    def __init__(self, runner: R, data: Mapping[str, Any]) -> None:
        super().__init__(runner)
        self.data = dict(data)

    @property
    def id(self) -> str:
        """The id: `ds_…`, `job_…` or `mdl_…`."""
        return str(self.data["id"])

    @property
    def name(self) -> str:
        """The name; it is not unique."""
        return str(self.data["name"])
