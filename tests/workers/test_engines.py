"""Which engine a shard gets: from the spec, the shard and the machine's calibration, and once for all its attempts."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.storage import shards
from workers.engines import FILE, Calibration, Planner, calibration

SMALL, WIDE = {"parameters": 20_000}, {"parameters": 2_000_000}


@pytest.mark.parametrize(
    ("extra", "members", "stack"),
    [(SMALL, 1, 1), (SMALL, 2, 2), (SMALL, 5, 5), (SMALL, 100, 16), (WIDE, 10, 1), ({}, 10, 1), (SMALL, 0, 1)],
)
def test_small_members_train_side_by_side(extra: dict[str, Any], members: int, stack: int) -> None:
    assert Planner()(extra, members) == {"threads": 1, "stack": stack}


def test_a_calibration_moves_the_bounds(tmp_path: Path) -> None:
    assert calibration(tmp_path) == Calibration()
    (tmp_path / FILE).write_text(json.dumps({"engines": {"stack_parameters": 3_000_000, "stack_members": 4}, "machine": {"cores": 2}}))
    found = calibration(tmp_path)
    assert Planner(2, found)(WIDE, 10) == {"threads": 2, "stack": 4}
    (tmp_path / FILE).write_text(json.dumps({"engines": {"stack_parameters": "many"}}))
    with pytest.raises(ValueError, match="no counts"):
        calibration(tmp_path)


def test_the_choice_is_made_at_the_first_claim_and_stays(open_house: Any) -> None:
    house = open_house()
    job = house.submit(parts=1)

    def claim(engine: shards.Engine) -> shards.Claim:
        with house.database.write() as c:
            found = shards.claim(c, "w", 60, max_attempts=3, engine=engine)
        assert found is not None
        assert found.job_id == job
        return found

    first = claim(lambda extra, members: {"threads": 1, "stack": 7 + members})
    assert first.engine == {"threads": 1, "stack": 8}
    with house.database.write() as c:
        shards.release(c, first)
    assert claim({"threads": 4, "stack": 1}).engine == {"threads": 1, "stack": 8}
