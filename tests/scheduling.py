"""In which process and in which order tests run when there are several: who shares a running service stays together, what waits goes first.

A file is a unit of its own unless its folder is in `TOGETHER`: there a fixture of the session is a whole service, which would
otherwise be started in every process. Where the session has one service per leg, each leg is a unit. Much of these tests is waiting, so
that the others compute meanwhile.
"""

from collections.abc import Sequence

from xdist.scheduler.loadscope import LoadScopeScheduling

TOGETHER = ("tests/matrix", "tests/temper")
APART = ("tests/system", "tests/chaos")
"""Folders whose legs have nothing in common; their files without a leg start what they need."""
ALONE = "tests/chaos/test_chaos.py"
"""Of such a folder, but each of its legs starts a stack of its own, and is long."""
LEGS = ("separate", "embedded")
FIRST = (*(f"{folder}[{leg}]" for leg in LEGS for folder in reversed(APART)), ALONE, "tests/chaos/", "tests/system/", "tests/matrix",
         "tests/test_docs.py", "tests/simulator/", "tests/temper", "tests/routes/", "tests/workers/", "tests/training/",
         "tests/inference/")  # fmt: skip
"""How units begin, the longest first: what begins last should be short. The simulator never waits, and so comes late among them."""


def unit(nodeid: str) -> str:
    """The folder, its leg or the file whose tests run in one process."""
    file, _, test = nodeid.partition("::")
    folder = next((folder for folder in (ALONE, *APART) if file == folder or file.startswith(f"{folder}/")), None)
    if folder is not None:
        words = test.partition("[")[2].removesuffix("]").split("-")
        return next((f"{folder}[{leg}]" for leg in LEGS if leg in words), file)
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def place(nodeid: str, first: Sequence[str] = FIRST) -> int:
    """When a test's unit has its turn."""
    known = [begins for begins in first if unit(nodeid).startswith(begins)]
    return first.index(max(known, key=len)) if known else len(first)


class ByService(LoadScopeScheduling):
    """xdist's scheduling by scope, with our units in our order."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
