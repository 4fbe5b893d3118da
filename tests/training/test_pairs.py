"""Tricks two by two: jobs in which every pair meets train, go on bit by bit after a kill, and answer; or are refused as declared."""

import hashlib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import Invalid, ModeUnavailable
from service.inference import selection
from service.inference.asking import ask, check_axes
from service.inference.measuring import Inquiry
from service.inference.model import Model
from service.inference.pools import Classes
from service.storage.files import Folder
from service.tricks.modes import EXACT_UNITS, MEANINGS, Asking
from tests.training.covering import Row, covering_array, pairs_in, pairs_of
from tests.training.factors import FACTORS, NAMES, job, refused
from workers.messages import Assignment, Checkpointed, Done, Drained
from workers.training.members import Shard
from workers.training.publishing import gather

MOST = 60
REFUSED = refused()
JOBS = covering_array(NAMES, REFUSED, most=MOST)
CPU = torch.device("cpu")


class Killed(Exception):
    """The trainer is no more."""


class Pipe:
    """A supervisor's end: what a trainer says, and after how many reports it is drained or killed."""

    def __init__(self, *, drain: int | None = None, kill: int | None = None) -> None:
        self.records: list[Any] = []
        self.reports = 0
        self.order: str | None = None
        self._drain, self._kill = drain, kill

    def send(self, message: Any) -> None:
        if isinstance(message, Checkpointed):
            self.records.append(message.record)

    def log(self, message: str, level: str = "info") -> None:
        assert level == "info", message

    def metrics(self, rows: Any) -> None:
        assert all(isinstance(value, float) for *_, value in rows)

    def progress(self, progress: Any) -> None:
        self.reports += 1
        if self.reports == self._drain:
            self.order = "drain"
        if self.reports == self._kill:
            raise Killed


@pytest.fixture(scope="module")
def small(bench: Any) -> Any:
    """The datasets that the factors name: 60 rows each."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(60, 2)).round(3)
    gaps = [None if i % 10 == 3 else "up" if value > 0 else "down" for i, value in enumerate(x[:, 0])]
    size = [None if i % 12 == 5 else round(3 * value + 7, 3) for i, value in enumerate(x[:, 1])]
    columns = {"a": x[:, 0], "b": x[:, 1], "c": [("red", "blue", "green")[i % 3] for i in range(60)], "kind": gaps, "size": size}
    bench.table("table", columns, targets=["kind", "size"])
    pictures = stream.random(size=(60, 6, 6)).astype(np.float32)
    bench.arrays("images", x=pictures, y=(pictures[:, :3].mean((1, 2)) > 0.5).astype(np.int64))
    shares = stream.random(size=(60, 3)).astype(np.float32)
    bench.arrays("shares", x=pictures, y=shares / shares.sum(1, keepdims=True))
    return bench


def assignment(material: Any, store: Folder, name: str, checkpoint: Any = None) -> Assignment:
    members = tuple(range(material.spec.ensemble.size))
    return Assignment(
        "job_x", 0, "train", 1, members, material.spec.dump(), "ds_x", f"jobs/job_x/{name}", "mdl_x", store,
        checkpoint=checkpoint, stack=len(members),
    )  # fmt: skip


def undisturbed(material: Any, store: Folder) -> Any:
    done = Shard(assignment(material, store, "straight"), material, Pipe(), CPU).run()
    assert isinstance(done, Done)
    return done.result["members"]


def disturbed(material: Any, store: Folder) -> Any:
    """Drained in the middle of its first epoch, killed when it had gone on for two reports, and taken up once more."""
    first = Pipe(drain=1)
    assert isinstance(Shard(assignment(material, store, "1"), material, first, CPU).run(), Drained)
    (record,) = first.records
    second = Pipe(kill=3)
    shard = Shard(assignment(material, store, "2", record), material, second, CPU)
    with pytest.raises(Killed):
        shard.run()
    shard.writer.wait()
    last = (second.records or first.records)[-1]
    return Shard(assignment(material, store, "3", last), material, Pipe(), CPU).run().result["members"]


def left_of(summaries: Any, store: Folder) -> list[Any]:
    """By member: the SHA-256 of its weights and of its curves, and how it ended."""
    digests = [[hashlib.sha256(store.read(each[file])).hexdigest() for file in ("file", "history")] for each in summaries]
    return [
        (each["member"], *digest, each["stop_reason"], each["best"], each["stopped_step"])
        for each, digest in zip(summaries, digests, strict=True)
    ]


def answers(model: Model, x: torch.Tensor) -> Iterator[tuple[str, Any]]:
    """What each mode answers; one that is refused has its reason."""
    units = sum(site.droppable for site in model.networks[model.best].sites)
    for mode in MEANINGS:
        missing = (
            (mode in ("weight_scaled", "monte_carlo", "exact") and not model.drops)
            or (mode == "exact" and units > EXACT_UNITS)
            or (mode == "ensemble" and model.size == 1)
        )
        if missing:
            with pytest.raises(ModeUnavailable):
                check_axes(model, Asking(mode=mode).axes(model))
        elif mode != "exact" or units <= 8:
            yield mode, ask(model, x, Asking(mode=mode, samples=5).axes(model))


def named(row: Row) -> str:
    """The row without what is as it always is."""
    return " + ".join(f"{factor}: {value}" for factor, value in row.items() if value != NAMES[factor][0]) or "plain"


@pytest.mark.parametrize("row", JOBS, ids=named)
def test_tricks_train_together_and_go_on_after_a_kill(small: Any, row: Row, tmp_path: Path) -> None:
    fields = job(row)
    material, store = small.material(fields.pop("dataset"), **fields), Folder(tmp_path)
    summaries = undisturbed(material, store)
    assert left_of(disturbed(material, store), store) == left_of(summaries, store)
    gathered = gather(material, store, summaries)
    model, _ = selection.select(Inquiry(gathered, material, lambda: None))
    x = material.rows(material.parts.test)[0]
    for mode, found in answers(model, x):
        for target in material.spec.targets:
            said = found[target.name]
            numbers = said.probabilities if isinstance(said, Classes) else said.mean
            assert bool(numbers.isfinite().all()), mode
            if isinstance(said, Classes):
                torch.testing.assert_close(numbers.sum(-1), torch.ones(len(x), dtype=numbers.dtype))


@pytest.mark.parametrize("pair", REFUSED, ids=lambda pair: " + ".join(": ".join(cell) for cell in pair))
def test_tricks_that_do_not_go_together_are_refused_where_it_is_declared(small: Any, pair: Any) -> None:
    fields = job(dict(pair))
    with pytest.raises(Invalid) as found:
        small.material(fields.pop("dataset"), **fields)
    assert (REFUSED[pair].pointer, REFUSED[pair].code) in {(flaw.pointer, flaw.code) for flaw in found.value.flaws}


def test_every_value_is_in_some_job_and_most_pairs_are() -> None:
    pairs = [pair for pair in pairs_of(NAMES) if pair not in REFUSED]
    seen = set().union(*(pairs_in(row) for row in JOBS))
    assert not seen & REFUSED.keys()
    assert {cell for row in JOBS for cell in row.items()} == {(factor, value) for factor, values in FACTORS.items() for value in values}
    assert len(JOBS) <= MOST
    assert len(seen) >= (0.75 if len(JOBS) == MOST else 1.0) * len(pairs)


# --- the array itself -----------------------------------------------------------------------------------------------


def test_an_array_has_every_pair_and_not_many_rows() -> None:
    factors = {"a": "01234", "b": "0123", "c": "012", "d": "01", "e": "01", "f": "012"}
    rows = covering_array({name: list(values) for name, values in factors.items()})
    assert set().union(*map(pairs_in, rows)) == set(pairs_of(factors))
    assert 20 <= len(rows) <= 26, "5 x 4 at least"
    assert rows == covering_array({name: list(values) for name, values in factors.items()})


def test_what_is_forbidden_is_in_no_row_and_everything_else_is() -> None:
    factors = {"a": "012", "b": "012", "c": "01", "d": "01"}
    forbidden = [(("a", "0"), ("b", "1")), (("b", "2"), ("c", "0")), (("a", "2"), ("d", "1"))]
    seen = set().union(*map(pairs_in, covering_array(factors, forbidden)))
    assert seen == set(pairs_of(factors)) - set(forbidden)


def test_the_first_rows_have_most() -> None:
    factors = dict.fromkeys("abcde", "0123")
    whole = covering_array(factors)
    assert covering_array(factors, most=5) == whole[:5]
    sizes = [len(set().union(*map(pairs_in, whole[:n]))) for n in range(len(whole) + 1)]
    assert sizes[5] == 5 * len(list(combinations(factors, 2)))


def test_a_pair_that_no_row_can_have_is_told() -> None:
    """Both values of c go with neither."""
    with pytest.raises(ValueError, match="no row can have"):
        covering_array({"a": "0", "b": "0", "c": "01"}, [(("a", "0"), ("c", "0")), (("b", "0"), ("c", "1"))])
