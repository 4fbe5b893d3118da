"""The second phase after early stopping: what it trains on, for how long, what ends it, and that an interruption does not show."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.inference.material import Material
from service.storage.files import Folder
from service.tricks.modes import Asking
from tests.training.conftest import Trained
from workers.messages import Assignment, Done, Progress
from workers.training.checkpointing import pack, unpack
from workers.training.loop import Epoch, train
from workers.training.members import Shard
from workers.training.retraining import begin, blank
from workers.training.run import Run, start
from workers.training.summaries import distance
from workers.training.task import Task

CPU = torch.device("cpu")
NET: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [12], "dropout": 0.3}, "batch_size": 220, "epochs": 12}
FAST = {"type": "adam", "learning_rate": 0.1}
RETRAIN = {"patience": 2, "then": "retrain"}
CONTINUE = {"patience": 2, "then": "continue"}


def first_of(material: Material, member: int = 0) -> Run:
    run = start(material, (member,), CPU)
    for _ in train(run, Task(material, run, CPU), tick_s=1e9):
        pass
    return run


def seen(run: Run, material: Material) -> list[Epoch]:
    return [record for record in train(run, Task(material, run, CPU), tick_s=1e9) if isinstance(record, Epoch)]


def both(material: Material, member: int = 0) -> tuple[Run, Run, list[Epoch]]:
    """The first phase, the second and the second's epochs."""
    first = first_of(material, member)
    second = begin(material, first.only, first.epoch, CPU)
    return first, second, seen(second, material)


def endless(material: Material, first: Run) -> Run:
    """A second phase whose threshold, if it has one, is never met."""
    run = begin(material, first.only, first.epoch, CPU)
    if run.second is not None and run.second.threshold is not None:
        run.only.second, run.only.reason = replace(run.second, threshold=0.0), None
    return run


# --- 7.2: anew -------------------------------------------------------------------------------------------------------


def test_retraining_is_training_on_all_rows_for_exactly_so_many_steps(bench: Any) -> None:
    """The same bits as a job whose training rows these are, from the same seed, cut off at step i*."""
    material = bench.material("digits", **NET, optimizer=FAST, early_stopping=RETRAIN)
    first, second, epochs = both(material)
    steps = first.only.patience.step
    assert (second.reason, second.step, epochs[-1].step) == ("retrained", steps, steps)
    assert 0 < steps < first.step
    parts = material.parts
    everything = np.concatenate([parts.train, parts.validation])
    spec = material.spec.model_copy(update={"max_steps": steps, "early_stopping": None})
    alone = first_of(replace(material, spec=spec, parts=parts._replace(train=everything, validation=parts.validation[:0])))
    assert alone.step == steps
    assert pack(second.only.best) == pack(alone.only.best)


def test_as_many_epochs_are_more_steps(bench: Any) -> None:
    fields = {**NET, "optimizer": FAST, "schedule": {"type": "step", "every": 1, "factor": 0.5}}
    material = bench.material("digits", **fields, early_stopping={**RETRAIN, "retrain_by": "epochs"})
    first, second, epochs = both(material)
    best = first.only.patience.epoch
    rows = len(material.parts.train) + len(material.parts.validation)
    assert (second.reason, second.step, len(epochs)) == ("retrained", best * -(-rows // 220), best)
    assert second.step > first.only.patience.step
    # A schedule counts its own epochs; by steps it counts the first phase's.
    rates = [record.values["retraining.learning_rate"] for record in epochs]
    assert rates == pytest.approx([0.1 * 0.5**epoch for epoch in range(best)])


@pytest.mark.parametrize("schedule", [{"type": "cosine", "warmup_epochs": 1}, {"type": "step", "every": 1, "factor": 0.5}])
def test_by_steps_each_has_the_learning_rate_that_it_had(bench: Any, schedule: Any) -> None:
    material = bench.material("digits", **NET, optimizer=FAST, schedule=schedule, early_stopping=RETRAIN)

    def rates(run: Run) -> list[float]:
        return [float(run.optimizer.param_groups[0]["lr"]) for _ in train(run, Task(material, run, CPU), tick_s=-1)]

    first = start(material, (0,), CPU)
    before = dict(zip(steps_of(first, material), rates(start(material, (0,), CPU)), strict=True))
    second = begin(material, first.only, first.epoch, CPU)
    after = dict(zip(steps_of(begin(material, first.only, first.epoch, CPU), material), rates(second), strict=True))
    assert len(after) > 5
    assert after == {step: before[step] for step in after}


def steps_of(run: Run, material: Material) -> list[int]:
    """The steps after which the loop paused."""
    return [run.step for _ in train(run, Task(material, run, CPU), tick_s=-1)]


def test_a_second_phase_follows_patience_that_was_never_used_up(bench: Any) -> None:
    material = bench.material("digits", **{**NET, "epochs": 3}, early_stopping=RETRAIN)
    first, second, _ = both(material)
    assert (first.reason, second.reason, second.step) == ("epochs", "retrained", first.only.patience.step)


def test_a_full_batch_grows_with_its_rows(bench: Any) -> None:
    material = bench.material("digits", **{**NET, "batch_size": "full"}, optimizer=FAST, early_stopping=RETRAIN)
    first, second, epochs = both(material)
    assert second.step == first.only.patience.step == len(epochs)
    assert Task(material, second, CPU).batches.size == len(material.parts.train) + len(material.parts.validation)


def test_a_bagged_member_keeps_its_own_rows(bench: Any) -> None:
    """What a member of a bag has never seen it does not see in its second phase either: out-of-bag stays honest."""
    material = bench.material("digits", **NET, early_stopping=RETRAIN, ensemble={"size": 2, "bootstrap": True, "fraction": 0.5})
    first = first_of(material, 1)
    task = Task(material, begin(material, first.only, first.epoch, CPU), CPU)
    batches = task.batches.walk(task.batches.order([torch.Generator().manual_seed(0)]), 0)
    rows = np.concatenate([batch.rows.numpy() for batch in batches])
    own = material.spec.ensemble.rows(1, material.parts.train, seed=material.spec.seed)
    assert sorted(rows) == sorted(np.concatenate([own, material.parts.validation]))


# --- 7.3: on from the best -------------------------------------------------------------------------------------------


def test_continuing_begins_at_the_best_step_with_its_weights_and_moments(bench: Any) -> None:
    material = bench.material("digits", **NET, optimizer=FAST, early_stopping=CONTINUE)
    first = start(material, (0,), CPU)
    states: dict[int, Any] = {}
    for record in train(first, Task(material, first, CPU), tick_s=1e9):
        if isinstance(record, Epoch):
            states[record.step] = bench.freeze(first)
    second = begin(material, first.only, first.epoch, CPU)
    best = first.only.patience.step
    weights, rest = unpack(states[best][0]), torch.load(io.BytesIO(states[best][1]), weights_only=True)
    assert (second.step, second.epoch) == (best, first.epoch)
    assert all(torch.equal(tensor, weights[f"now.{name}"]) for name, tensor in second.network.learned().items())
    for place, state in second.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, rest["optimizer"]["state"][place][name]) for name, value in state.items())
    # Streams of its own: neither those of the beginning nor of the end.
    for name, stream in second.only.streams.items():
        assert not torch.equal(stream.get_state(), start(material, (0,), CPU).only.streams[name].get_state())


def test_a_stack_keeps_each_members_moments(bench: Any) -> None:
    """Momentum, which has no shared count of steps, and Adam, which has."""
    for optimizer in ({"type": "sgd", "learning_rate": 0.05}, FAST):
        material = bench.material("digits", **{**NET, "epochs": 3}, optimizer=optimizer, early_stopping=CONTINUE, ensemble={"size": 3})
        run = start(material, (0, 1, 2), CPU, stacked=True)
        everyone = list(run.members)
        seen(run, material)
        for member in everyone:
            alone = first_of(material, member.number).only
            assert alone.moments.keys() == member.moments.keys() != set()
            assert alone.patience.step == member.patience.step
            for name, tensor in alone.moments.items():
                torch.testing.assert_close(member.moments[name], tensor, rtol=1e-3, atol=1e-5)


def test_it_ends_when_the_loss_on_validation_is_down_to_that_on_training(bench: Any) -> None:
    material = bench.material("digits", **{**NET, "epochs": 40}, optimizer=FAST, early_stopping={**CONTINUE, "cap_epochs": 1000})
    first, second, epochs = both(material)
    plan = second.only.second
    model = bench.model(material, Trained(first, []))
    on_training = bench.measure(model, material, material.parts.train, Asking(mode="single").axes(model))["loss"]
    assert plan.threshold == pytest.approx(on_training, rel=1e-5), "of the best weights, without dropout"
    losses = [record.values["retraining.validation.loss"] for record in epochs]
    assert second.reason == "threshold"
    assert losses[-1] <= plan.threshold < min(losses[:-1], default=np.inf)
    assert plan.loss == losses[-1]
    assert pack(second.only.best) == pack(second.network.learned())


def test_it_ends_at_its_cap_and_says_so(bench: Any) -> None:
    material = bench.material(
        "digits", **NET, optimizer={"type": "adam", "learning_rate": 1e-9}, early_stopping={**CONTINUE, "cap_epochs": 4}
    )
    first, second, epochs = both(material)
    assert second.only.second.loss > second.only.second.threshold
    assert (second.reason, len(epochs)) == ("cap", 4)
    assert pack(second.only.best) == pack(second.network.learned()) != pack(first.only.best)


def test_without_a_cap_it_lasts_as_long_as_there_was_training_before(bench: Any) -> None:
    material = bench.material("digits", **NET, early_stopping=CONTINUE)
    first = first_of(material)
    second = begin(material, first.only, first.epoch, CPU)
    rows = len(material.parts.train) + len(material.parts.validation)
    assert second.second.last - second.second.step == first.epoch * -(-rows // 220)


def test_a_threshold_that_is_met_at_once_takes_no_step(bench: Any) -> None:
    """As the algorithm has it: the loss is looked at before each round of training."""
    rows = bench.material("digits").parts.train
    # Validated on what it is trained on, the loss is the threshold.
    material = bench.material("digits", **NET, early_stopping=CONTINUE)
    material = replace(material, parts=material.parts._replace(validation=rows))
    first, second, epochs = both(material)
    assert (second.reason, epochs, second.step) == ("threshold", [], first.only.patience.step)
    assert pack(second.only.best) == pack(first.only.best)


@pytest.mark.parametrize("then", [RETRAIN, CONTINUE])
def test_what_explodes_in_it_leaves_the_first_phases_weights(bench: Any, then: Any) -> None:
    material = bench.material("digits", **NET, optimizer=FAST, early_stopping=then)
    first = first_of(material)
    second = begin(material, first.only, first.epoch, CPU)
    with torch.no_grad():
        second.network.heads[0].weight.fill_(torch.nan)
    seen(second, material)
    assert second.reason == "diverged"
    assert pack(second.only.best) == pack(first.only.best)


def test_its_series_have_names_of_their_own_and_go_on_counting(bench: Any) -> None:
    material = bench.material("digits", **NET, optimizer=FAST, regularizers=[{"type": "l2", "alpha": 1e-4}], early_stopping=CONTINUE)
    first = first_of(material)
    second = endless(material, first)
    epochs = seen(second, material)
    names = {name for record in epochs for name in record.values}
    assert all(name.startswith("retraining.") for name in names)
    assert {"retraining.train.loss", "retraining.penalty.l2", "retraining.validation.loss", "retraining.learning_rate"} <= names
    assert [record.epoch for record in epochs] == list(range(first.epoch + 1, first.epoch + 1 + len(epochs)))
    history = second.only.history
    assert len(history["train.loss"]) == first.epoch
    assert history["retraining.train.loss"] == [record.values["retraining.train.loss"] for record in epochs]


# --- interruptions ---------------------------------------------------------------------------------------------------

PHASES = {
    "retrain": {"early_stopping": RETRAIN},
    "retrain by epochs": {"early_stopping": {**RETRAIN, "retrain_by": "epochs"}, "schedule": {"type": "cosine"}},
    "continue": {"early_stopping": {**CONTINUE, "cap_epochs": 3}},
    "continue, everything": {
        "early_stopping": {**CONTINUE, "cap_epochs": 2},
        "architecture": {"type": "mlp", "hidden": [12, 12], "batch_norm": True, "dropout": {"input": 0.2, "hidden": 0.5}},
        "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
        "adversarial_training": {"method": "fgsm", "epsilon": 1.0},
        "optimizer": {"type": "sgd", "learning_rate": 0.1},
        "regularizers": [{"type": "l1", "alpha": 1e-4}],
    },
}


@pytest.mark.parametrize("name", PHASES)
def test_an_interruption_of_a_second_phase_does_not_show(bench: Any, name: str) -> None:
    material = bench.material("digits", **{**NET, "epochs": 4, "optimizer": FAST, **PHASES[name]})
    first = first_of(material)
    straight = endless(material, first)
    frozen = [bench.freeze(straight) for _ in train(straight, Task(material, straight, CPU), tick_s=-1) if straight.reason is None]
    expected = facts(straight)
    for pause in sorted({0, len(frozen) // 2, len(frozen) - 1}):
        run = blank(material, 0, CPU)
        run.restore(unpack(frozen[pause][0]), torch.load(io.BytesIO(frozen[pause][1]), weights_only=True))
        for _ in train(run, Task(material, run, CPU)):
            pass
        assert facts(run) == expected, f"after pause {pause}"


def facts(run: Run) -> tuple[Any, ...]:
    own = run.only
    streams = {name: stream.get_state().tolist() for name, stream in own.streams.items()}
    return pack(own.best), pack(run.network.learned()), own.patience, own.second, own.history, streams, run.step, run.epoch, run.reason


# --- shards ----------------------------------------------------------------------------------------------------------


class Wire:
    """What a shard says, and an order once it has said so many things of a phase."""

    def __init__(self, order: str | None = None, *, phase: str = "", after: int = 0) -> None:
        self.progress_of: list[Progress] = []
        self.records: list[Any] = []
        self.rows: list[Any] = []
        self._order, self._phase, self._after = order, phase, after

    @property
    def order(self) -> str | None:
        told = sum(progress.phase == self._phase for progress in self.progress_of)
        return self._order if self._order and told > self._after else None

    def progress(self, progress: Progress) -> None:
        self.progress_of.append(progress)

    def send(self, message: Any) -> None:
        self.records.append(message.record)

    def metrics(self, rows: Any) -> None:
        self.rows += rows

    def log(self, *_: str) -> None:
        """Nobody reads it."""


def shard(material: Material, folder: Path, wire: Wire, *, stack: int = 1, checkpoint: Any = None, fence: int = 1) -> Any:
    members = tuple(range(material.spec.ensemble.size))
    assignment = Assignment(
        "job_x", 0, "train", fence, members, {}, "", f"jobs/job_x/{fence}", "mdl_x", Folder(folder), checkpoint=checkpoint, stack=stack
    )
    return Shard(assignment, material, wire, CPU).run()


def three(bench: Any, **stopping: Any) -> Material:
    fields = {
        **NET,
        "optimizer": {"type": "adam", "learning_rate": 0.2},
        "ensemble": {"size": 3, "bootstrap": True},
        "checkpoint_interval_s": 0,
    }
    return bench.material("digits", **fields, early_stopping=stopping)


def left(done: Done, folder: Path) -> dict[int, Any]:
    store = Folder(folder)
    return {
        summary["member"]: (store.read(summary["file"]), store.read(summary["history"]), summary["second"], summary["stop_reason"])
        for summary in done.result["members"]
    }


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("stopping", [{"patience": 1, "then": "retrain"}, {"patience": 1, "then": "continue", "cap_epochs": 2}])
def test_members_of_a_shard_go_through_both_phases(bench: Any, stack: int, stopping: Any, tmp_path: Path) -> None:
    material, wire = three(bench, **stopping), Wire()
    done = shard(material, tmp_path, wire, stack=stack)
    assert {summary["member"] for summary in done.result["members"]} == {0, 1, 2}
    for summary in done.result["members"]:
        assert summary["stop_reason"] in (("retrained",) if stopping["then"] == "retrain" else ("threshold", "cap"))
        assert summary["stopped_by"] in ("early_stopping", "epochs")
        if stopping["then"] == "retrain":
            assert summary["second"]["steps"] == summary["best_step"]
    fractions = [progress.fraction for progress in wire.progress_of]
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1.0
    phases = [progress.phase for progress in wire.progress_of]
    assert phases == sorted(phases, key=["training", "retraining"].index)
    # Killed after any checkpoint, in either phase, the shard ends with the same bits.
    expected = left(done, tmp_path)
    for place in (0, len(wire.records) // 2, len(wire.records) - 1):
        again = shard(material, tmp_path, Wire(), stack=stack, checkpoint=wire.records[place], fence=2 + place)
        assert left(again, tmp_path) == expected, f"after checkpoint {place} of {len(wire.records)}"
    assert {record["phase"] for record in wire.records} == {"training", "retraining"}


def test_a_stop_in_the_second_phase_keeps_what_the_first_one_found(bench: Any, tmp_path: Path) -> None:
    material = three(bench, patience=1, then="retrain")
    whole = shard(material, tmp_path, Wire())
    kept = {summary["member"]: Folder(tmp_path).read(summary["file"]) for summary in whole.result["members"]}
    stopped = shard(material, tmp_path, Wire("stop:time_limit", phase="retraining", after=0), fence=2)
    assert stopped.result["ordered"] == "time_limit"
    summaries = {summary["member"]: summary for summary in stopped.result["members"]}
    assert {summary["stop_reason"] for summary in summaries.values()} == {"time_limit"}
    for number, summary in summaries.items():
        first = first_of(material, number)
        assert Folder(tmp_path).read(summary["file"]) == pack(first.only.best) != kept[number]
        assert summary["stopped_by"] == first.reason


def test_a_stop_in_the_first_phase_has_no_second(bench: Any, tmp_path: Path) -> None:
    done = shard(three(bench, patience=5, then="retrain"), tmp_path, Wire("stop:user_stop", phase="training", after=2))
    assert done.result["ordered"] == "user_stop"
    assert [summary["second"] for summary in done.result["members"]] == [None] * len(done.result["members"])


def test_a_drained_second_phase_is_taken_up(bench: Any, tmp_path: Path) -> None:
    material = three(bench, patience=1, then="continue", cap_epochs=3)
    expected = left(shard(material, tmp_path, Wire()), tmp_path)
    wire = Wire("drain", phase="retraining", after=1)
    shard(material, tmp_path, wire, fence=2)
    assert wire.records[-1]["phase"] == "retraining"
    again = Wire()
    assert left(shard(material, tmp_path, again, checkpoint=wire.records[-1], fence=3), tmp_path) == expected
    assert {progress.phase for progress in again.progress_of} == {"retraining"}


# --- distances -------------------------------------------------------------------------------------------------------


def test_the_distance_from_the_initial_weights(bench: Any) -> None:
    material = bench.material("digits", **NET, optimizer=FAST, early_stopping={"patience": 2})
    run = first_of(material)
    found = distance(material, 0, run.only.best)
    before = bench.flat({name: tensor.detach() for name, tensor in material.initial(0).learned().items()})
    assert found["all"] == pytest.approx(float(np.linalg.norm(bench.flat(run.only.best) - before)), rel=1e-9)
    assert found["all"] == pytest.approx(float(np.linalg.norm(list(found["layers"].values()))), rel=1e-9)
    assert list(found["layers"]) == ["hidden.0", "head.label"]
    assert distance(material, 0, material.initial(0).learned())["all"] == 0.0
