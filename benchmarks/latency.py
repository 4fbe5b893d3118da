"""From POST to the first optimizer step on a warm, idle worker: python -m benchmarks.latency"""

import re
import statistics
import sys
import time
from datetime import datetime

from benchmarks.service import run, service

JOBS = 15
MOST_S = 0.3
SPEC = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [32]}, "epochs": 1}


def main() -> int:
    waits = []
    with service() as (http, _):
        run(http, SPEC)
        for _ in range(JOBS):
            time.sleep(1.0)
            posted = time.time()
            job, _ = run(http, SPEC)
            log = http.get(f"/api/v1/jobs/{job['id']}/logs").text
            stepped = re.search(r"first step at (\S+)", log)
            if stepped is None:
                raise SystemExit(f"no first step in the log:\n{log}")
            waits.append(datetime.fromisoformat(stepped[1]).timestamp() - posted)
    median = statistics.median(waits)
    print(f"submit to first step: median {median:.3f} s, {min(waits):.3f} to {max(waits):.3f}, {JOBS} jobs; at most {MOST_S}")
    return 0 if median <= MOST_S else 1


if __name__ == "__main__":
    sys.exit(main())
