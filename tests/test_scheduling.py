"""Which tests share a process."""

from pathlib import Path

from tests.scheduling import NEXT, TOGETHER, place, unit

HERE = Path(__file__).parent


def test_a_folder_that_shares_a_service_is_one_unit_and_any_other_file_its_own() -> None:
    assert unit("tests/chaos/test_chaos.py::test_x[a::b]") == "tests/chaos"
    assert unit("tests/system/test_images.py::test_y") == "tests/system"
    assert unit("tests/training/test_loop.py::test_z[1]") == "tests/training/test_loop.py"


def test_units_have_their_turn_in_the_order_of_the_lists() -> None:
    named = [f"{folder}/test_a.py::test_b" for folder in (*TOGETHER, *NEXT)]
    assert sorted([*reversed(named), "tests/test_docs.py::test_c"], key=place) == [*named, "tests/test_docs.py::test_c"]


def test_the_folders_are_there() -> None:
    assert all((HERE.parent / folder).is_dir() for folder in (*TOGETHER, *NEXT))
