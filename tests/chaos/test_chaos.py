"""Random kills and pauses of workers, trainers, API and broker while small jobs run: none lost, none doubled, no wrong weights.

`TEMPER_TEST_CHAOS_S` (seconds on each stack, 30), `TEMPER_TEST_CHAOS_JOBS` (on each, 100) and `TEMPER_TEST_CHAOS_SEED` (drawn) set it.
"""

import os
import secrets
import time
from collections.abc import Callable

import pytest

from tests.chaos.campaign import Campaign
from tests.chaos.nemesis import Nemesis
from tests.system.separate import Stack

SECONDS = float(os.environ.get("TEMPER_TEST_CHAOS_S", "30"))
JOBS = int(os.environ.get("TEMPER_TEST_CHAOS_JOBS", "100"))
LEASE_S = 3.0


@pytest.mark.timeout(300 + 2 * SECONDS + 4 * JOBS)
@pytest.mark.parametrize("kind", ["embedded", "separate"])
def test_nothing_is_lost_doubled_or_wrong(open_stack: Callable[..., Stack], kind: str, record_property: Callable[..., None]) -> None:
    seed = int(os.environ.get("TEMPER_TEST_CHAOS_SEED", secrets.randbelow(10**6)))
    # Deaths at random come more often in a row than those of a poisonous job.
    with open_stack(kind, TEMPER_MAX_ATTEMPTS="100") as stack:
        campaign = Campaign(stack)
        campaign.rehearse()
        began = time.monotonic()
        with Nemesis(stack, seed, lease_s=LEASE_S, for_s=SECONDS) as nemesis:
            campaign.submit_all(JOBS, 0.7 * SECONDS)
            while time.monotonic() - began < SECONDS and nemesis.is_alive():
                time.sleep(0.2)
        campaign.await_all()
        verdict = campaign.verdict()
        campaign.close()
    struck = ", ".join(f"{what} {role} {count}" for (role, what), count in sorted(nemesis.struck.items()))
    told = f"chaos on {kind}: seed {seed}, {JOBS} jobs in {time.monotonic() - began:.0f} s under {nemesis.kills} kills ({struck})"
    record_property("said", told)
    assert not verdict, f"seed {seed}: {verdict}"
    assert nemesis.kills >= SECONDS / 6, f"seed {seed}: only {nemesis.struck}"
