"""What decides every bit of a member: its seeds, its rows, and nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from service import blocks
from service.inference import bags, report
from service.inference.asking import ask
from service.inference.decomposition import member_errors, variance_decomposition
from service.inference.measuring import Inquiry
from service.tricks.modes import Asking
from workers.training.checkpointing import pack
from workers.training.loop import Tick, train
from workers.training.run import start
from workers.training.task import Task

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [12]}, "epochs": 3, "batch_size": 256}


TRICKS: dict[str, Any] = {
    "architecture": {"type": "mlp", "hidden": [12], "batch_norm": True, "dropout": {"input": 0.2, "hidden": 0.5}},
    "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
    "ensemble": {"size": 3, "bootstrap": True},
    "epochs": 2,
    "batch_size": 256,
}


def test_the_same_seeds_give_the_same_bytes(bench: Any) -> None:
    material = bench.material("digits", **TRICKS)
    torch.manual_seed(0)
    first = bench.train(material, 1)
    torch.manual_seed(1)
    again = bench.train(bench.material("digits", **TRICKS), 1)
    assert first.weights == again.weights
    assert [epoch.values for epoch in first.epochs] == [epoch.values for epoch in again.epochs]
    others = [bench.train(material, 0), bench.train(bench.material("digits", **TRICKS, seed=1), 1)]
    assert len({first.weights, *(other.weights for other in others)}) == 3


def test_a_member_does_not_depend_on_its_siblings(bench: Any) -> None:
    """Neither on how many there are nor on which were trained before."""
    three, nine = bench.material("digits", **TRICKS), bench.material("digits", **{**TRICKS, "ensemble": {"size": 9, "bootstrap": True}})
    in_turn = [bench.train(three, member).weights for member in range(3)]
    assert bench.train(nine, 2).weights == in_turn[2]
    assert bench.train(nine, 0).weights == in_turn[0]


def test_equal_seeds_make_equal_members_and_c_equals_v(bench: Any) -> None:
    material = bench.material("digits", **{**TRICKS, "ensemble": {"size": 3, "bootstrap": True, "seeds": [5, 5, 5]}})
    members = [bench.train(material, member) for member in range(3)]
    assert len({member.weights for member in members}) == 1
    model = bench.model(material, *members)
    axes = Asking(members="all").axes(model)
    rows = material.parts.test
    answer = ask(model, material.rows(rows)[0].float(), axes, keep=True)["label"]
    _, errors = member_errors(answer, material.spec.targets[0], material, rows)
    found = variance_decomposition(errors)
    assert found["c"] == pytest.approx(found["v"], rel=1e-12)
    assert found["measured_error"] == pytest.approx(found["v"], rel=1e-12)


def test_ticks_do_not_show(bench: Any) -> None:
    material = bench.material("digits", **TRICKS)
    run = start(material, (0,), CPU)
    records = list(train(run, Task(material, run, CPU), tick_s=-1))
    assert sum(isinstance(record, Tick) for record in records) == run.step - 1, "after every step but the last"
    assert pack(run.only.best) == bench.train(material, 0).weights


def test_streams_are_independent_of_each_other(bench: Any) -> None:
    """Dropping units at a rate of next to nothing draws masks, and changes neither order nor initial weights."""
    plain = bench.material("digits", **SMALL)
    masked = bench.material("digits", **{**SMALL, "architecture": {"type": "mlp", "hidden": [12], "dropout": {"hidden": 1e-9}}})
    first, second = start(plain, (0,), CPU), start(masked, (0,), CPU)
    assert pack(first.network.learned()) == pack(second.network.learned())
    orders = []
    for material, run in ((plain, first), (masked, second)):
        task = Task(material, run, CPU)
        next(iter(train(run, task, tick_s=-1)))
        orders.append(run.order)
    assert torch.equal(orders[0], orders[1])


def test_rows_of_other_parts_and_rows_not_drawn_never_reach_the_weights(bench: Any) -> None:
    """Leak test: whatever validation, test and out-of-bag rows hold, the bytes are the same."""
    fields = {**TRICKS, "early_stopping": None, "augmentation": []}
    material = bench.material("digits", **fields)
    drawn = material.spec.ensemble.rows(0, material.parts.train, seed=material.spec.seed)
    others = np.setdiff1d(np.arange(len(material.inputs)), drawn)
    assert len(others) > len(material.inputs) // 3
    inputs, labels = np.array(material.inputs), material.labels["label"].clone()
    inputs[others] = np.random.default_rng(0).permutation(inputs[others])
    labels[torch.from_numpy(others)] = (labels[torch.from_numpy(others)] + 3) % 10
    changed = replace(material, inputs=inputs, labels={"label": labels})
    assert bench.train(changed).weights == bench.train(material).weights
    inputs[drawn[0]] += 1
    assert bench.train(changed).weights != bench.train(material).weights


def test_blocks_of_training_rows_do_not_show(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    material = bench.material("digits", **TRICKS)
    whole = bench.train(material).weights
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300_000)
    assert bench.train(material).weights == whole


def test_the_rows_that_are_kept_are_those_of_training(bench: Any) -> None:
    """Read back from the file's bytes: what the batches of each member are made of."""
    material = bench.material("digits", **{**TRICKS, "ensemble": {"size": 3, "bootstrap": True}})
    model = bench.model(material, *(bench.train(material, member) for member in range(3)))
    kept = bags.rows_of(pack(bags.tensors(Inquiry(model, material), range(3))))
    assert [*kept] == [0, 1, 2]
    for member, rows in kept.items():
        batches = Task(material, start(material, (member,), CPU), CPU).batches
        walked = [(x.clone(), labels["label"].clone()) for x, labels, _ in batches.walk(torch.arange(batches.rows), 0)]
        x, labels = material.rows(rows)
        assert torch.equal(torch.cat([part for part, _ in walked]), x)
        assert torch.equal(torch.cat([part for _, part in walked]), labels["label"])


def test_out_of_bag_rows_are_answered_by_those_that_never_saw_them(bench: Any) -> None:
    """The report's out-of-bag error, by hand: rows that every member saw are left out."""
    material = bench.material("digits", **{**TRICKS, "ensemble": {"size": 3, "bootstrap": True}})
    members = [bench.train(material, member) for member in range(3)]
    model = bench.model(material, *members)
    summaries = [{"member": i, "best": 0.0, "best_epoch": 1, "best_step": 1, "stopped_epoch": 1, "stop_reason": "epochs"} for i in range(3)]
    rows = material.parts.train
    x, labels = material.rows(rows)
    each = np.stack([ask(model, x, Asking(members=i).axes(model))["label"].probabilities.numpy() for i in range(3)])
    unseen = np.stack([~np.isin(rows, material.spec.ensemble.rows(i, rows, seed=material.spec.seed)) for i in range(3)])
    covered = unseen.any(0)
    assert covered.mean() == pytest.approx(1 - (1 - (1 - 1 / len(rows)) ** len(rows)) ** 3, abs=0.05)
    average = (each * unseen[:, :, None]).sum(0)[covered] / unseen.sum(0)[covered, None]
    expected = ((average - np.eye(10)[labels["label"][covered]]) ** 2).sum(1).mean()
    found = report.build(Inquiry(model, material), summaries)["ensemble"]
    assert found["out_of_bag"] == pytest.approx(expected, rel=1e-6)
    assert found["predicted_error"] == pytest.approx(found["measured_error"], rel=1e-6)
