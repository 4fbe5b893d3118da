"""What becomes of the promises P1 to P9 when one guard of the SQL is removed."""

from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import event

from tests.simulator import submitting
from tests.simulator.exploration import hunt
from tests.simulator.guards import ANY, GUARDS, Guard
from tests.simulator.schedule import Schedule
from tests.simulator.world import World

WITHIN_S = 60.0
NEEDED = [guard for guard in GUARDS if not guard.redundant]
REDUNDANT = [guard for guard in GUARDS if guard.redundant]


@pytest.mark.parametrize("guard", NEEDED, ids=str)
def test_a_removed_guard_is_found(guard: Guard) -> None:
    removed = replace(guard)
    found = hunt(removed, WITHIN_S)
    assert removed.removals > 0
    assert found is not None


@pytest.mark.parametrize("guard", REDUNDANT, ids=str)
def test_a_redundant_guard_changes_nothing(guard: Guard) -> None:
    removed = replace(guard)
    assert hunt(removed, WITHIN_S, seeds=40) is None
    assert removed.removals > 0


def test_the_table_has_every_guard() -> None:
    met = set[tuple[str, str]]()
    with closing(World()) as world:
        ledger = world.ledger
        event.listen(ledger.engine, "before_cursor_execute", lambda _c, _cursor, statement, *_rest: met.add((ledger.running, statement)))
        for seed in range(200):
            Schedule(world, seed, storms=1.0).run()
    guarded = [(call, statement, place) for call, statement in met for place in ANY.finditer(statement)]
    assert len(guarded) >= len(GUARDS) - 3  # a few statements are rare
    for call, statement, place in guarded:
        known = [guard for guard in GUARDS if guard.concerns(call, statement) and guard.place(statement) == place.span()]
        assert known, f"no guard for {place.group()} of {call}: {statement}"


@pytest.mark.parametrize("guard", submitting.GUARDS, ids=str)
def test_a_guard_of_keys(guard: Guard) -> None:
    removed = replace(guard)
    found = submitting.submit(100, removed)
    assert removed.removals > 0
    assert (found is None) == bool(guard.redundant)
