"""The table spec x engine: members side by side are the members one by one, whatever tricks they train with."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from service.nets.network import stack, stackable
from tests.training.test_resume import CPU, JOBS, material_of, on
from workers.training.adversary import objective
from workers.training.checkpointing import pack
from workers.training.loop import Epoch, train
from workers.training.run import STREAMS, Run, build, start
from workers.training.task import Task

MEMBERS = (0, 1, 2)


def material(bench: Any, name: str) -> Any:
    """The job of that name with three members."""
    made = material_of(bench, name)
    spec = made.spec.model_copy(update={"ensemble": made.spec.ensemble.model_copy(update={"size": 3})})
    return type(made)(**{**vars(made), "spec": spec})


def first_gradients(made: Any, run: Run) -> dict[str, Tensor]:
    """The gradients of the first batch, dropout, bootstrap, order and augmentation included."""
    task = Task(made, run, CPU)
    order = task.batches.order(run.streams("order"))
    x, labels, rows = next(task.batches.walk(order, 0))
    if task.augmented is not None:
        x, labels = task.augmented(x, labels, rows, epoch=0)
    run.network.train()
    if task.gating is not None:
        task.gating.draw(run.streams("gates"))
    loss = objective(run.network, task, x.float(), labels, run.members)
    loss.sum().backward()
    if task.gating is not None:
        with torch.no_grad():
            task.gating.add_gradients()
    return {name: parameter.grad for name, parameter in run.network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", JOBS)
def test_a_stack_takes_the_first_step_that_its_members_take_alone(bench: Any, name: str) -> None:
    made = material(bench, name)
    together = first_gradients(made, start(made, MEMBERS, CPU, stacked=True))
    for place, member in enumerate(MEMBERS):
        alone = first_gradients(made, start(made, (member,), CPU))
        assert alone.keys() == together.keys()
        size = max(float(gradient.abs().max()) for gradient in alone.values())
        for key, gradient in alone.items():
            torch.testing.assert_close(together[key][place], gradient, rtol=1e-6, atol=1e-6 * size)


def trained(made: Any, members: tuple[int, ...], *, stacked: bool) -> dict[int, Any]:
    """What is left of each member: best weights, patience, curves and reason."""
    run = start(made, members, CPU, stacked=stacked)
    everyone = list(run.members)
    for _ in train(run, Task(made, run, CPU), tick_s=1e9):
        pass
    return {member.number: (member.best, member.patience, member.history, member.reason) for member in everyone}


NORMED = ("batch norm", "everything")
"""Batch norm has the features of all members side by side, and where vectors of them end depends on how many there are."""


@pytest.mark.parametrize("name", [name for name in JOBS if name not in NORMED])
def test_the_neighbours_do_not_matter(bench: Any, name: str) -> None:
    """Bit for bit: in stacks of three, two and one, also when others have left."""
    made = material(bench, name)
    whole = trained(made, MEMBERS, stacked=True)
    for members in ((2, 0), (1,)):
        for number, (best, *rest) in trained(made, members, stacked=True).items():
            assert pack(best) == pack(whole[number][0])
            assert tuple(rest) == whole[number][1:]


def products_agree(bench: Any) -> bool:
    """Whether the first gradients of a network without tricks have the same bits in a stack and alone."""
    made = material(bench, "plain")
    together = first_gradients(made, start(made, MEMBERS, CPU, stacked=True))
    alone = first_gradients(made, start(made, (0,), CPU))
    return all(torch.equal(together[key][0], gradient) for key, gradient in alone.items())


SUMMED = ("numbers", "several targets", "labels", "quantiles and weighted rows", "mixed rows", "mixed numbers", "named layers")
"""Losses that are no single kernel for a member alone, and layer norm, which is one."""


@pytest.mark.parametrize("name", [name for name in JOBS if name not in (*NORMED, *SUMMED)])
def test_many_a_stack_gives_the_bits_of_its_members_alone(bench: Any, name: str) -> None:
    """More than is promised: the engines take the same sums in the same order, but for batch norm and losses of more than one kernel.

    Only where a processor's products do: on some, a batched one rounds otherwise than one by itself.
    """
    made = material(bench, name)
    if not products_agree(bench):
        pytest.skip("this processor rounds batched products otherwise; the first step's test has how far apart they may be")
    together, alone = trained(made, MEMBERS, stacked=True), trained(made, (1,), stacked=False)
    assert pack(together[1][0]) == pack(alone[1][0])


@pytest.mark.parametrize("name", JOBS)
def test_a_stack_gives_the_same_bits_again(bench: Any, name: str) -> None:
    made = material(bench, name)
    first, again = trained(made, MEMBERS, stacked=True), trained(made, MEMBERS, stacked=True)
    for number, (best, *rest) in first.items():
        assert pack(best) == pack(again[number][0])
        assert tuple(rest) == again[number][1:]


@pytest.mark.parametrize("name", JOBS)
def test_a_stack_ends_where_its_members_end_alone(bench: Any, name: str) -> None:
    """Not bit for bit: sums are taken in another order, and training magnifies what the last bits differ by."""
    made = material(bench, name)
    together, (alone,) = trained(made, MEMBERS, stacked=True), trained(made, (1,), stacked=False).values()
    best, patience, history, reason = together[1]
    assert reason == alone[3]
    assert history["train.loss"] == pytest.approx(alone[2]["train.loss"], rel=1e-3)
    assert patience.epoch == alone[1].epoch
    if made.spec.architecture.normalizes:  # a bias before it has no effect, and a gradient of rounding alone
        return
    for key, tensor in alone[0].items():
        torch.testing.assert_close(best[key], tensor, rtol=1e-2, atol=1e-3 * float(tensor.abs().max()) + 1e-6)


@pytest.mark.parametrize("name", ["plain", "numbers", "momentum", "penalties", "clipping", "elastic net and sgd"])
def test_equal_seeds_make_equal_members(bench: Any, name: str) -> None:
    """Whatever the widths: the last of a stack is computed like the first."""
    made = material(bench, name)
    ensemble = made.spec.ensemble.model_copy(update={"seeds": (5, 5, 5)})
    made = type(made)(**{**vars(made), "spec": made.spec.model_copy(update={"ensemble": ensemble})})
    first, *others = trained(made, MEMBERS, stacked=True).values()
    for other in others:
        assert pack(other[0]) == pack(first[0])
        assert other[1:] == first[1:]


def facts(run: Run, everyone: list[Any]) -> tuple[Any, ...]:
    """All that a finished stack leaves behind."""
    kept = [(pack(member.best), vars(member.patience), member.history, member.reason) for member in everyone]
    streams = [stream.get_state().tolist() for name in STREAMS for stream in run.streams(name)]
    return kept, streams, pack(run.network.learned()), run.step, run.epoch


@pytest.mark.parametrize("name", JOBS)
def test_an_interruption_of_a_stack_does_not_show(bench: Any, name: str) -> None:
    made = material(bench, name)
    straight = start(made, MEMBERS, CPU, stacked=True)
    members, frozen = list(straight.members), {}
    for pause, _ in enumerate(on(straight, Task(made, straight, CPU))):
        if straight.reason is None:
            frozen[pause] = (tuple(member.number for member in straight.members), bench.freeze(straight))
    expected = {member.number: pack(member.best) for member in members}
    for pause in sorted({0, len(frozen) // 2, max(frozen)}):
        numbers, bytes_of = frozen[pause]
        run = bench.thaw(made, numbers, bytes_of, stacked=True)
        left = list(run.members)
        for _ in on(run, Task(made, run, CPU)):
            pass
        assert {member.number: pack(member.best) for member in left} == {number: expected[number] for number in numbers}, f"pause {pause}"
        if len(left) == len(members):
            assert facts(run, left) == facts(straight, members)


def leavers(bench: Any) -> Any:
    """Members that stop at different epochs."""
    stopping = {"optimizer": {"type": "adam", "learning_rate": 0.2}, "early_stopping": {"patience": 1}, "epochs": 40}
    net = {"architecture": {"type": "mlp", "hidden": [12], "dropout": 0.3}, "batch_size": 220}
    return bench.material("digits", **net, **stopping, ensemble={"size": 6, "bootstrap": True})


def epochs(made: Any, run: Run) -> Iterator[Epoch]:
    return (record for record in train(run, Task(made, run, CPU), tick_s=1e9) if isinstance(record, Epoch))


def test_members_that_stopped_leave_the_stack(bench: Any) -> None:
    made = leavers(bench)
    run = start(made, tuple(range(6)), CPU, stacked=True)
    sizes, gone = [], []
    for record in epochs(made, run):
        sizes.append(len(record.measured))
        gone += [member.number for member in record.ended]
        assert run.reason is not None or run.network.members == len(run.members) == sizes[-1] - len(record.ended)
    assert sizes[0] == 6
    assert len(set(sizes)) > 2, "some left before the others"
    assert sorted(gone) == list(range(6))


def test_who_leaves_is_not_in_the_checkpoint_and_the_others_go_on(bench: Any) -> None:
    made = leavers(bench)
    whole = trained(made, tuple(range(6)), stacked=True)
    run = start(made, tuple(range(6)), CPU, stacked=True)
    for record in epochs(made, run):
        if record.ended:
            break
    numbers = tuple(member.number for member in run.members)
    assert 0 < len(numbers) < 6
    resumed = bench.thaw(made, numbers, bench.freeze(run), stacked=True)
    left = list(resumed.members)
    list(epochs(made, resumed))
    for member in left:
        assert pack(member.best) == pack(whole[member.number][0])


def test_a_stack_of_networks_gives_each_ones_answer(bench: Any) -> None:
    made = material(bench, "everything")
    networks = [build(made, torch.Generator().manual_seed(seed)).eval() for seed in range(4)]
    whole = stack(networks)
    assert whole.members == 4
    assert stackable(networks[0])
    x, _ = made.rows(made.parts.test)
    for place, network in enumerate(networks):
        for name, raw in network(x).items():
            torch.testing.assert_close(whole(x)[name][place], raw, rtol=1e-6, atol=1e-6)


def test_what_has_parameters_of_another_kind_is_not_stacked(bench: Any) -> None:
    network = build(material(bench, "plain"), torch.Generator().manual_seed(0))
    network.trunk.extra = torch.nn.Conv1d(1, 1, 1)
    assert not stackable(network)
