"""Which tests share a process."""

from pathlib import Path

import pytest

from tests.scheduling import FIRST, TOGETHER, place, unit

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("nodeid", "its"),
    [
        ("tests/matrix/test_matrix.py::test_x[a::b]", "tests/matrix"),
        ("tests/chaos/test_faults.py::test_x[7]", "tests/chaos/test_faults.py"),
        ("tests/chaos/test_submits.py::test_x[separate-2-before-the-ring]", "tests/chaos[separate]"),
        ("tests/chaos/test_chaos.py::test_x[embedded]", "tests/chaos/test_chaos.py[embedded]"),
        ("tests/system/test_images.py::test_y[embedded]", "tests/system[embedded]"),
        ("tests/system/test_images.py::test_y[separate-0.5]", "tests/system[separate]"),
        ("tests/system/test_refusals.py::test_y[{'separate': 1}-embedded]", "tests/system[embedded]"),
        ("tests/system/test_buckets.py::test_y", "tests/system/test_buckets.py"),
        ("tests/system/test_schema_fuzz.py::test_y[GET /separate]", "tests/system/test_schema_fuzz.py"),
        ("tests/training/test_loop.py::test_z[1]", "tests/training/test_loop.py"),
    ],
)
def test_who_shares_a_service_is_one_unit_and_any_other_file_its_own(nodeid: str, its: str) -> None:
    assert unit(nodeid) == its


def test_units_have_their_turn_in_the_order_of_the_list() -> None:
    for number, begins in enumerate(FIRST):
        folder, _, leg = begins.removesuffix("]").partition("[")
        file = folder if folder.endswith(".py") else f"{folder.rstrip('/')}/test_a.py"
        assert place(f"{file}::test_b[{leg or 1}]") == number
    assert place("tests/test_pages.py::test_c") == len(FIRST)


def test_what_is_listed_is_there() -> None:
    assert all((ROOT / begins.partition("[")[0]).exists() for begins in (*TOGETHER, *FIRST))
