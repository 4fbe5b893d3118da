"""Small jobs under random kills of workers, trainers, API and broker: how many are lost, doubled, or end with wrong weights."""

import argparse
import secrets
import tempfile
import time
from pathlib import Path

from temper.embedded.launch import Launch
from tests.chaos.campaign import Campaign
from tests.chaos.nemesis import Nemesis
from tests.system.separate import Separate, Stack

LEASE_S = 3.0
ENVIRONMENT = {"TEMPER_LEASE_S": f"{LEASE_S}", "TEMPER_HEARTBEAT_S": "0.5", "TEMPER_POLL_S": "0.5", "TEMPER_GRACE_S": "5",
               "TEMPER_SHARDS": "2", "TEMPER_MAX_ATTEMPTS": "100"}  # fmt: skip


def stack(kind: str, folder: Path) -> Stack:
    """A stack of that kind that has not begun."""
    if kind == "embedded":
        return Launch(folder / "data", workers=2, environment=ENVIRONMENT)
    return Separate(folder, environment=ENVIRONMENT)


def run(kind: str, *, jobs: int, kills: int, seed: int) -> bool:
    """Submit jobs until there were as many and as many kills; print what became of them."""
    with tempfile.TemporaryDirectory() as place, stack(kind, Path(place)) as running:
        campaign = Campaign(running)
        campaign.rehearse()
        began, posted = time.monotonic(), 0
        with Nemesis(running, seed, lease_s=LEASE_S, most=kills) as nemesis:
            while nemesis.is_alive() and (posted < jobs or nemesis.kills < kills):
                # Some wait at any time, so that every kill has something to hit.
                if campaign.open() < 12:
                    campaign.submit(posted)
                    posted += 1
                else:
                    time.sleep(0.05)
        campaign.await_all()
        verdict, seconds, left = campaign.verdict(), time.monotonic() - began, len(campaign.leftovers())
        campaign.close()
    struck = ", ".join(f"{what} {role} {count}" for (role, what), count in sorted(nemesis.struck.items()))
    print(f"{kind}, seed {seed}: {posted} jobs, {nemesis.kills} kills ({struck}) in {seconds:.0f} s")
    print(f"  lost {len(verdict.lost)}, doubled {len(verdict.doubled)}, wrong weights {len(verdict.wrong)}; folders left behind {left}")
    for line in (*verdict.lost, *verdict.doubled, *verdict.wrong)[:20]:
        print(f"    {line}")
    holds = not verdict and posted >= jobs and nemesis.kills >= kills
    print(f"  0, 0 and 0 over at least {jobs} jobs and {kills} kills: {'holds' if holds else 'FALLS SHORT'}", flush=True)
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stack", choices=["embedded", "separate", "both"], default="both")
    given = parser.parse_args()
    kinds = ["embedded", "separate"] if given.stack == "both" else [given.stack]
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    held = [run(kind, jobs=given.jobs, kills=given.kills, seed=seed) for kind in kinds]
    raise SystemExit(not all(held))


if __name__ == "__main__":
    main()
