"""In which process and in which order tests run when there are several: who shares a running service stays together, what waits goes first.

A file is a unit of its own unless its folder is in `TOGETHER`: there a fixture of the session is a whole service, which would
otherwise be started in every process. Much of these tests is waiting, so that the others compute meanwhile.
"""

from collections.abc import Sequence

from xdist.scheduler.loadscope import LoadScopeScheduling

TOGETHER = ("tests/chaos", "tests/system", "tests/simulator", "tests/matrix", "tests/temper")
"""Longest first: what begins last should be short."""
NEXT = ("tests/routes", "tests/workers", "tests/training", "tests/inference")


def unit(nodeid: str) -> str:
    """The folder or the file whose tests run in one process."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def place(nodeid: str, first: Sequence[str] = (*TOGETHER, *NEXT)) -> int:
    """When a test's unit has its turn."""
    return next((number for number, folder in enumerate(first) if nodeid.startswith(f"{folder}/")), len(first))


class ByService(LoadScopeScheduling):
    """xdist's scheduling by scope, with our units in our order."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
