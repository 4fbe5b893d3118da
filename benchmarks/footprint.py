"""Memory and idle CPU of the stack, and its growth while a 2 GB CSV is uploaded: python -m benchmarks.footprint [--gigabytes 2]"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil

from benchmarks.service import run, service

MIB = 2**20
SETTLE_S = 5  # the last job's trainer is gone by then
IDLE_S = 30
BOUNDARY = b"temper-footprint"


def pss(process: psutil.Process) -> int:
    """Proportional set size in MiB."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:"))) // 1024


def csv(size: int) -> Iterator[bytes]:
    """A multipart body with a table of about that many bytes."""
    head = f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="name"\r\n\r\nlarge\r\n'
    head += f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="file"; filename="large.csv"\r\n\r\n'
    yield head.encode()
    yield b",".join(b"x%d" % i for i in range(20)) + b",y\n"
    block = b"".join(b",".join(b"%d.%05d" % (i % 7, (i * j) % 99991) for j in range(1, 21)) + b",%d\n" % (i % 3) for i in range(5000))
    for _ in range(size // len(block)):
        yield block
    yield b"\r\n--%s--\r\n" % BOUNDARY


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    size = int(parser.parse_args().gigabytes * 2**30)
    with service() as (http, launched):
        run(http, {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [32]}, "epochs": 1})
        http.post("/api/v1/models/digits/predict", json={"inputs": [[0.0] * 64]}).raise_for_status()
        assert launched.process is not None
        parent = psutil.Process(launched.process.pid)
        stack = [parent, *parent.children(recursive=True)]
        named = {" ".join(process.cmdline()): process for process in stack}
        api = next(process for line, process in named.items() if "service.app" in line)
        worker = next(process for line, process in named.items() if "workers.app" in line)
        held = [line("API", pss(api), 300), line("supervisor", pss(worker), 110)]
        time.sleep(SETTLE_S)
        before = [process.cpu_times() for process in stack]
        time.sleep(IDLE_S)
        spent = sum(a.user + a.system - b.user - b.system for a, b in zip((p.cpu_times() for p in stack), before, strict=True))
        held.append(line("idle CPU of the stack, %", 100 * spent / IDLE_S, 1))
        held.append(line(f"API growth while {size / 2**30:g} GB of CSV are uploaded", growth(http, api, size), 200))
    return 0 if all(held) else 1


def growth(http: httpx2.Client, api: psutil.Process, size: int) -> float:
    """By how many MiB the process grew at most, watched from another thread."""
    from threading import Event, Thread

    first, peak, done = api.memory_info().rss, [0], Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], api.memory_info().rss)

    thread = Thread(target=watch)
    thread.start()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    answer = http.post("/api/v1/datasets", content=csv(size), headers=headers, timeout=1800)
    done.set()
    thread.join()
    if answer.status_code != 201:
        raise SystemExit(answer.text)
    print(f"uploaded {answer.json()['rows']} rows")
    return (peak[0] - first) / MIB


def line(name: str, value: float, most: float) -> bool:
    """Print a figure and whether it holds."""
    print(f"{name:48s} {value:8.2f}   at most {most}   {'holds' if value <= most else 'FALLS SHORT'}", flush=True)
    return value <= most


if __name__ == "__main__":
    sys.exit(main())
