"""Which tests share a process."""

from pathlib import Path

import pytest

from tests.scheduling import FIRST, TOGETHER, place, unit

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("nodeid", "its"),
    [
        ("tests/chaos/test_chaos.py::test_x[a::b]", "tests/chaos"),
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
    named = [f"{begins.partition('[')[0].rstrip('/')}/test_a.py::test_b[{begins.partition('[')[2]}" for begins in FIRST]
    assert [*map(place, named)] == [*range(len(FIRST))]
    assert place("tests/test_docs.py::test_c") == len(FIRST)


def test_the_folders_are_there() -> None:
    assert all((ROOT / begins.partition("[")[0]).is_dir() for begins in (*TOGETHER, *FIRST))

