"""Training time against other libraries, same data, epochs and accuracy: python -m benchmarks.peers [single|bagged]

A net 64-128-128-10 against skorch, Lightning, a DataLoader loop and scikit-learn (which has no dropout, so that both sides
go without), and ten of them bagged against torchensemble and scikit-learn. All take turns, seed by seed, each in a process
that has imported everything; libraries that Temper does not need live in environments of their own, which are made
on the first run. One net is judged by user CPU time, a bag on two cores by wall time. Run on an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits

PROGRAMS = Path(__file__).parent / "peer_programs"
ROWS, TEST_ORIGINALS, NOISE = 4096, 360, 4.0
PACKAGES = {
    "skorch": ("torch==2.13.0", "skorch==1.4.0"),
    "lightning": ("torch==2.13.0", "lightning==2.6.6"),
    "kornia": ("torch==2.13.0", "kornia==0.9.0"),
    "torchensemble": ("torch==2.13.0", "torchvision==0.28.0", "torchensemble==0.2.0", "scikit-learn==1.9.1"),
}
POINT = 0.01
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Peer(NamedTuple):
    """A program with its environment, and how much quicker ours has to be, and aims to be."""

    name: str
    program: str
    environment: str | None
    required: float
    aim: float


class Contest(NamedTuple):
    """Ours against peers on one plan."""

    title: str
    plan: dict[str, Any]
    wall: bool
    """Whether wall time decides, or user CPU time."""
    peers: tuple[Peer, ...]


NET = {"widths": [64, 128, 128, 10], "batch": 64, "train": ROWS, "members": 1}
BAG = {**NET, "members": 10}
CONTESTS = {
    "single": (
        Contest(
            "one net, dropout .5", {**NET, "dropout": 0.5}, False,
            (
                Peer("skorch", "single.py skorch", "skorch", 1.8, 3.5),
                Peer("lightning", "single.py lightning", "lightning", 1.9, 3.5),
                Peer("DataLoader loop", "single.py loader", None, 1.4, 2.8),
            ),
        ),
        Contest("one net, no dropout", {**NET, "dropout": 0.0}, False, (Peer("scikit-learn", "single.py sklearn", None, 1.0, 1.4),)),
    ),
    "bagged": (
        Contest(
            "bagging k=10, dropout .5", {**BAG, "dropout": 0.5}, True,
            (
                Peer("torchensemble, 2 jobs", "bagged.py torchensemble", "torchensemble", 5.0, 10.0),
                Peer("torchensemble, 1 job", "bagged.py torchensemble-1", "torchensemble", 5.0, 10.0),
            ),
        ),
        Contest("bagging k=10, no dropout", {**BAG, "dropout": 0.0}, True, (Peer("scikit-learn", "bagged.py sklearn", None, 1.5, 2.5),)),
    ),
}  # fmt: skip


class Turn(NamedTuple):
    """What one training took, and its accuracy on test."""

    wall: float
    cpu: float
    accuracy: float


class Runner:
    """A program that trains whenever asked."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
        self._talk = tempfile.TemporaryFile(mode="w+")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._talk, text=True, bufsize=1, env=environment
        )
        self._listen()

    def _listen(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._talk.seek(0)
            raise SystemExit(f"{' '.join(map(str, self._process.args))} ended: {self._talk.read()[-2000:]}")  # type: ignore[arg-type]
        return line

    def turn(self, seed: int) -> Turn:
        """One training."""
        assert self._process.stdin is not None
        before = user_seconds(self._process.pid)
        print(seed, file=self._process.stdin, flush=True)
        told = json.loads(self._listen())
        return Turn(told["wall"], user_seconds(self._process.pid) - before, told["accuracy"])

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._talk.close()


def in_turn(runners: list[Runner], rounds: int) -> list[list[Turn]]:
    """Each one's turns, seed by seed; the first round warms up and does not count. The programs are ended."""
    turns: list[list[Turn]] = [[] for _ in runners]
    for seed in range(rounds + 1):
        for at in range(len(runners)):
            place = (at + seed) % len(runners)  # who follows whom changes from round to round
            turn = runners[place].turn(seed)
            if seed:
                turns[place].append(turn)
    for runner in runners:
        runner.close()
    return turns


def user_seconds(root: int) -> float:
    """User CPU seconds of a process and all below it, those that have ended and were waited for included (proc(5), stat)."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        number = int(path.parent.name)
        parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[13])
    family = {root}
    while grown := {number for number, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(ticks.get(number, 0) for number in family) * TICK_S


def python_of(environment: str | None, home: Path) -> str:
    """The interpreter of an environment, which is made when it is not there."""
    if environment is None:
        return sys.executable
    folder = home / environment
    if not (folder / "complete").exists():
        print(f"making {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *PACKAGES[environment]], check=True)
        (folder / "complete").touch()
    return str(folder / "bin" / "python")


def write_rows(folder: Path, plan: dict[str, Any]) -> None:
    """Digits with noise, [2 ROWS, 64]: train and test are made from different originals."""
    x, y = load_digits(return_X_y=True)
    stream = np.random.default_rng(0)
    order = stream.permutation(len(x))
    chosen = np.concatenate([stream.choice(part, ROWS) for part in (order[TEST_ORIGINALS:], order[:TEST_ORIGINALS])])
    noisy = x[chosen] + stream.normal(scale=NOISE, size=(2 * ROWS, 64))
    np.savez(folder / "rows.npz", x=noisy.astype(np.float32), y=y[chosen])
    (folder / "plan.json").write_text(json.dumps(plan))


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % bootstrap interval."""
    stream = np.random.default_rng(0)
    low, high = np.percentile([np.median(stream.choice(ratios, len(ratios))) for _ in range(2000)], [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def judged(contest: Contest, peer: Peer, ours: list[Turn], theirs: list[Turn]) -> bool:
    """Print a peer's line; it holds when the lower end of the interval does, at an accuracy no more than a point below."""
    pairs = list(zip(ours, theirs, strict=True))
    wall, cpu = interval([b.wall / a.wall for a, b in pairs]), interval([b.cpu / a.cpu for a, b in pairs])
    decides, beside = (wall, cpu) if contest.wall else (cpu, wall)
    accuracy = [float(np.mean([turn.accuracy for turn in turns])) for turns in (ours, theirs)]
    holds = decides[1] >= peer.required and accuracy[0] >= accuracy[1] - POINT
    names = ("wall", "user CPU") if contest.wall else ("user CPU", "wall")
    seconds = [float(np.median([turn.wall if contest.wall else turn.cpu for turn in turns])) for turns in (ours, theirs)]
    print(
        f"{contest.title:25s} {peer.name:22s} {decides[0]:5.2f}x [{decides[1]:.2f}, {decides[2]:.2f}] quicker by {names[0]} "
        f"({seconds[0]:.2f} s, theirs {seconds[1]:.2f} s; by {names[1]} {beside[0]:.2f}x)   at least {peer.required}, aim {peer.aim}   "
        f"accuracy {100 * accuracy[0]:.2f}, theirs {100 * accuracy[1]:.2f}   {'holds' if holds else 'FALLS SHORT'}",
        flush=True,
    )
    return holds


def held(contest: Contest, which: str, rounds: int, home: Path) -> list[bool]:
    """A contest's peers in turn with ours."""
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name), contest.plan)
        runners = [Runner([sys.executable, "-m", "benchmarks.peer_programs.ours", which, name])]
        for peer in contest.peers:
            program, argument = peer.program.split()
            runners.append(Runner([python_of(peer.environment, home), str(PROGRAMS / program), argument, name]))
        turns = in_turn(runners, rounds)
    return [judged(contest, peer, turns[0], theirs) for peer, theirs in zip(contest.peers, turns[1:], strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", nargs="*", default=list(CONTESTS), choices=[*CONTESTS, []])
    parser.add_argument("--rounds", type=int, help="that count, default 20 for one net and 5 for a bag")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "temper-peers", help="where they are made")
    given = parser.parse_args()
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}   {time.strftime('%Y-%m-%d %H:%M')}", flush=True)
    results = []
    for which in given.which:
        for contest in CONTESTS[which]:
            planned = contest._replace(plan={**contest.plan, "epochs": given.epochs})
            results += held(planned, which, given.rounds or (20 if which == "single" else 5), given.environments)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
