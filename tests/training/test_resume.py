"""A run that was interrupted, stored and taken up again ends with the same bits as one that never stopped."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from service.errors import ArtifactCorrupt
from service.spec import TrainSpec
from service.storage.files import Folder
from service.tricks.adversarial import AdversarialTraining
from service.tricks.augmentation import Augmentation
from service.tricks.optimization import Optimizer, Schedule
from service.tricks.penalties import Regularizer
from workers.training.checkpointing import Buffers, Record, Writer, pack, read, unpack
from workers.training.loop import Epoch, train
from workers.training.run import Run, start
from workers.training.task import Task

CPU = torch.device("cpu")
DROPOUT = {"input": 0.2, "hidden": 0.5}
# Six steps an epoch, four epochs.
COMMON: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [12]}, "batch_size": 220, "epochs": 4}
JOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"architecture": {"type": "mlp", "hidden": [12, 12], "dropout": DROPOUT}},
    "dropout per unit": {"architecture": {"type": "mlp", "hidden": [12, 12], "dropout": {"hidden": [[0.1, 0.0, 0.6] * 4, 0.5]}}},
    "batch norm": {"architecture": {"type": "mlp", "hidden": [12, 12], "batch_norm": True}},
    "augmentation": {"augmentation": [{"type": "gaussian_noise", "std": 1.0, "probability": 0.5}]},
    "moved images": {
        "dataset": "photos",
        "augmentation": [
            {"type": "rotate", "degrees": 15.0},
            {"type": "translate", "pixels": 1, "probability": 0.5},
            {"type": "scale"},
            {"type": "flip", "axis": "vertical", "probability": 0.3},
            {"type": "cutout", "size": 3},
        ],
    },
    "mixed rows": {"augmentation": [{"type": "mixup", "probability": 0.7}, {"type": "gaussian_noise", "std": 1.0}, {"type": "cutmix"}]},
    "mixed numbers": {
        "dataset": "diabetes",
        "batch_size": 60,
        "targets": [{"task": "regression", "name": "target", "loss": "gaussian_nll"}],
        "augmentation": [{"type": "mixup", "alpha": 1.0}],
        "ensemble": {"size": 2, "bootstrap": True},
    },
    "bagging": {"ensemble": {"size": 3, "bootstrap": True, "fraction": 0.7}},
    "momentum": {"optimizer": {"type": "sgd", "learning_rate": 0.1, "nesterov": True}},
    "adamw and cosine": {"optimizer": {"type": "adamw"}, "schedule": {"type": "cosine", "warmup_epochs": 1.5}},
    "step decay": {"schedule": {"type": "step", "every": 1, "factor": 0.5}},
    "penalties": {
        "regularizers": [
            {"type": "l1", "alpha": 0.003, "layers": ["hidden.*"]},
            {"type": "l2", "alpha": 0.001},
            {"type": "max_norm", "limit": 1.0},
        ]
    },
    "elastic net and sgd": {
        "regularizers": [
            {"type": "elastic_net", "l1": 0.001, "l2": 0.001, "parameters": "all"},
            {"type": "l2", "alpha": 0.01, "decoupled": True},
        ],
        "optimizer": {"type": "sgd", "learning_rate": 0.05},
    },
    "overlapping proximal penalties": {
        "regularizers": [{"type": "elastic_net", "l1": 0.001, "l2": 0.01, "layers": ["head.*"]}, {"type": "l1", "alpha": 0.002}],
    },
    "gates": {
        "architecture": {"type": "mlp", "hidden": [12, 12], "dropout": DROPOUT},
        "regularizers": [{"type": "l0", "alpha": 0.01}, {"type": "l2", "alpha": 0.001, "parameters": "all"}],
        "optimizer": {"type": "adamw"},
    },
    "projection": {
        "architecture": {"type": "mlp", "hidden": [12, 12]},
        "regularizers": [{"type": "l0", "method": "projection", "keep": 0.3}, {"type": "l1", "alpha": 0.003, "layers": ["hidden.0"]}],
    },
    "ties and sharing": {
        "architecture": {"type": "mlp", "hidden": [12, 12, 12, 12]},
        "regularizers": [
            {"type": "share", "layers": ["hidden.1", "hidden.2"], "parameters": "all"},
            {"type": "tie", "between": ["hidden.1", "hidden.3"], "alpha": 0.1},
            {"type": "l1", "alpha": 0.003, "layers": ["hidden.2", "hidden.0"]},
        ],
    },
    "varied strengths of gates": {
        "ensemble": {"size": 3, "vary": {"alpha": [0.0, 0.1]}},
        "architecture": {"type": "mlp", "hidden": [12, 12]},
        "regularizers": [
            {"type": "l0", "alpha": 0.001, "layers": ["hidden.*"]},
            {"type": "l0", "method": "projection", "keep": 0.3, "layers": ["head.*"]},
        ],
        "optimizer": {"type": "sgd"},
    },
    "varied rates": {
        "ensemble": {"size": 3, "vary": {"learning_rate": [0.002, 0.02], "dropout": [0.0, 0.5, 0.2]}},
        "architecture": {"type": "mlp", "hidden": [12, 12], "dropout": {"input": 0.2}},
        "schedule": {"type": "cosine"},
        "regularizers": [{"type": "l1", "alpha": 0.001}, {"type": "max_norm", "limit": 1.0}],
    },
    "varied strengths": {
        "ensemble": {"size": 3, "vary": {"alpha": [0.0, 0.01]}},
        "regularizers": [{"type": "l2", "alpha": 0.001}, {"type": "elastic_net", "l1": 0.001, "l2": 0.001}],
        "gradient_clip": {"norm": 0.5},
    },
    "varied rates and sgd": {
        "ensemble": {"size": 3, "vary": {"learning_rate": [0.1, 0.01, 0.05], "alpha": [0.001, 0.1]}},
        "regularizers": [{"type": "l2", "alpha": 0.01, "decoupled": True}, {"type": "elastic_net", "l1": 0.001, "l2": 0.0}],
        "optimizer": {"type": "sgd"},
    },
    "varied rates and adamw": {
        "ensemble": {"size": 3, "vary": {"learning_rate": [0.3, 0.001]}},
        "optimizer": {"type": "adamw", "weight_decay": 0.1},
        "early_stopping": {"patience": 1},
        "epochs": 12,
    },
    "fgsm": {"adversarial_training": {"method": "fgsm", "epsilon": 1.0}},
    "pgd": {"adversarial_training": {"method": "pgd", "epsilon": 1.0, "steps": 3, "weight": 0.7}},
    "fast": {"adversarial_training": {"method": "fast", "epsilon": 1.0}},
    "trades": {"adversarial_training": {"method": "trades", "epsilon": 1.0, "steps": 2}},
    "vat": {"adversarial_training": {"method": "vat", "epsilon": 3.0, "norm": "l2", "steps": 2}},
    "noise": {"adversarial_training": {"method": "noise", "std": 1.0, "weight": 0.5}},
    "ibp": {"adversarial_training": {"method": "ibp", "epsilon": 1.0}},
    "clipping": {"gradient_clip": {"norm": 0.5}},
    "early stopping": {"optimizer": {"type": "adam", "learning_rate": 0.3}, "early_stopping": {"patience": 1}, "epochs": 30},
    "going on": {"early_stopping": {"patience": 2, "then": "continue"}},
    "adversarial monitor": {
        "adversarial_training": {"method": "fgsm", "epsilon": 1.0},
        "early_stopping": {"monitor": "adversarial_loss"},
        "architecture": {"type": "mlp", "hidden": [12], "dropout": DROPOUT},
    },
    "named layers": {
        "architecture": {
            "type": "layers",
            "layers": [
                {"type": "flatten"},
                {"type": "dropout", "rate": 0.2},
                {"type": "linear", "width": 12},
                {"type": "activation"},
                {
                    "type": "residual",
                    "layers": [{"type": "linear", "width": 12, "name": "inner"}, {"type": "activation", "function": "tanh"}],
                },
                {"type": "share", "as": "inner"},
                {"type": "layer_norm"},
                {"type": "dropout", "rate": 0.4},
            ],
        },
        "regularizers": [{"type": "l0", "alpha": 0.001, "layers": ["linear.0"]}, {"type": "l1", "alpha": 0.001, "layers": ["inner"]}],
        "ensemble": {"size": 3, "vary": {"learning_rate": [0.002, 0.02]}},
    },
    "max steps": {"max_steps": 15, "early_stopping": None},
    "numbers": {"dataset": "diabetes", "batch_size": 60, "targets": [{"task": "regression", "name": "target", "loss": "gaussian_nll"}]},
    "several targets": {
        "dataset": "several",
        "batch_size": 40,
        "targets": [
            {"name": "policy", "weight": "learned"},
            {"name": "value", "output": "tanh", "weight": "learned"},
            {"name": "kind", "weight": 0.5},
        ],
        "optimizer": {"type": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "regularizers": [{"type": "l2", "alpha": 1e-4, "parameters": "all"}],
        "gradient_clip": {"norm": 1.0},
    },
    "labels": {
        "targets": [{"name": "label", "class_weights": "balanced", "label_smoothing": 0.1, "loss": "focal", "gamma": 1.5}],
        "early_stopping": {"monitor": "label.nll"},
    },
    "quantiles and weighted rows": {
        "dataset": "diabetes",
        "batch_size": 60,
        "targets": [{"name": "target", "loss": "quantile", "weight": "learned"}],
        "features": {"weight": "s4"},
        "optimizer": {"type": "sgd", "learning_rate": 0.05},
    },
    "autoencoder": {"architecture": {"type": "autoencoder", "hidden": [24], "code": 4, "dropout": {"input": 0.2, "hidden": [0.1, 0.3]}}},
    "tied autoencoder": {
        "architecture": {"type": "autoencoder", "hidden": [24, 12], "code": 4, "tied": True, "activation": "tanh"},
        "targets": [{"name": "input", "loss": "mse_original", "weight": 0.1}, {"name": "label"}],
        "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
        "regularizers": [{"type": "l1", "alpha": 1e-4}, {"type": "max_norm", "limit": 2.0}],
        "ensemble": {"size": 2, "bootstrap": True},
    },
    "everything": {
        "architecture": {"type": "mlp", "hidden": [12, 12, 12], "batch_norm": True, "residual": True, "dropout": DROPOUT},
        "augmentation": [{"type": "gaussian_noise", "std": 1.0}],
        "adversarial_training": {"method": "fgsm", "epsilon": 1.0, "norm": "l2"},
        "ensemble": {"size": 2, "bootstrap": True},
        "schedule": {"type": "cosine"},
        "regularizers": [{"type": "l1", "alpha": 1e-4}, {"type": "max_norm", "limit": 2.0}],
        "gradient_clip": {"norm": 5.0},
    },
}


def material_of(bench: Any, name: str) -> Any:
    fields = {**COMMON, **JOBS[name]}
    bench.several()
    bench.photos()
    return bench.material(fields.pop("dataset", "digits"), **fields)


def kinds(union: Any) -> set[type]:
    """The members of a union, or the one class that it has so far."""
    inner = get_args(union)[0]
    return set(get_args(inner)) or {inner}


def test_every_trick_is_in_some_job() -> None:
    # Tasks are put in where a spec is resolved.
    specs = [TrainSpec.model_validate({"dataset": "digits", **COMMON, **job, "targets": None}) for job in JOBS.values()]
    assert {type(spec.optimizer) for spec in specs} == kinds(Optimizer)
    assert {type(spec.schedule) for spec in specs} == kinds(Schedule)
    assert {type(penalty) for spec in specs for penalty in spec.regularizers} == kinds(Regularizer)
    assert {type(transform) for spec in specs for transform in spec.augmentation} == kinds(Augmentation)
    assert {type(spec.adversarial_training) for spec in specs} - {type(None)} == kinds(AdversarialTraining)


def on(run: Run, task: Task) -> Iterator[Epoch | None]:
    """The rest of a run, pausing after every step; epochs are handed out, pauses are None."""
    for record in train(run, task, tick_s=-1):
        yield record if isinstance(record, Epoch) else None


def facts(run: Run) -> tuple[Any, ...]:
    """All that a finished run leaves behind."""
    streams = {name: stream.get_state().tolist() for name, stream in run.only.streams.items()}
    return (
        pack(run.only.best),
        pack(run.network.learned()),
        vars(run.only.patience),
        run.step,
        run.epoch,
        run.reason,
        streams,
        run.only.history,
        run.only.early,
    )


@pytest.mark.parametrize("name", JOBS)
def test_an_interruption_does_not_show(bench: Any, name: str) -> None:
    material = material_of(bench, name)
    member = material.spec.ensemble.size - 1
    straight, epochs, frozen = start(material, (member,), CPU), [], {}
    for pause, record in enumerate(on(straight, Task(material, straight, CPU))):
        if record is not None:
            epochs.append((pause, record.epoch, record.values))
        if straight.reason is None:
            frozen[pause] = bench.freeze(straight)
    expected = facts(straight)
    assert straight.only.best
    # The first step, the last pause, one in the middle of an epoch and its end.
    ends = [pause for pause, _, _ in epochs if pause in frozen]
    middle = next(pause for pause in frozen if pause > ends[0] + 1 and pause not in ends) if ends else 1
    for pause in sorted({0, middle, ends[len(ends) // 2] if ends else 0, max(frozen)}):
        run = bench.thaw(material, member, frozen[pause])
        rest = [(record.epoch, record.values) for record in on(run, Task(material, run, CPU)) if record is not None]
        assert facts(run) == expected, f"after pause {pause}"
        assert rest == [(epoch, values) for at, epoch, values in epochs if at > pause]


@pytest.mark.parametrize("name", ["everything", "penalties"])
def test_many_interruptions_do_not_show(bench: Any, name: str) -> None:
    material = material_of(bench, name)
    straight = start(material, (0,), CPU)
    list(on(straight, Task(material, straight, CPU)))
    run = start(material, (0,), CPU)
    pauses = 0
    while run.reason is None:
        # Killed after every fourth pause.
        for _, _ in zip(range(4), on(run, Task(material, run, CPU)), strict=False):
            pauses += 1
        if run.reason is None:
            run = bench.thaw(material, 0, bench.freeze(run))
    assert pauses > 20
    assert facts(run) == facts(straight)


def test_the_interrupted_run_goes_on_as_if_nothing_was_taken(bench: Any) -> None:
    """Taking a checkpoint reads; it does not write."""
    material = material_of(bench, "everything")
    plain, watched = start(material, (0,), CPU), start(material, (0,), CPU)
    list(on(plain, Task(material, plain, CPU)))
    for _ in on(watched, Task(material, watched, CPU)):
        first, again = bench.freeze(watched), bench.freeze(watched)
        assert first == again
    assert facts(watched) == facts(plain)


def test_a_checkpoint_outlives_what_comes_after_it(bench: Any) -> None:
    """Its bytes are copies: steps taken later do not reach into them."""
    material = material_of(bench, "everything")
    run = start(material, (0,), CPU)
    steps = on(run, Task(material, run, CPU))
    for _ in range(5):
        next(steps)
    weights = {key: tensor.clone() for key, tensor in run.capture()[0].items()}
    frozen = bench.freeze(run)
    list(steps)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in unpack(frozen[0]).items())
    assert torch.load(io.BytesIO(frozen[1]), weights_only=True)["step"] == 5


# --- files ----------------------------------------------------------------------------------------------------------


def test_packing_is_deterministic_and_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"b": torch.randn(3, 4, generator=generator), "a": torch.tensor([float("nan"), -0.0, 1e-45]), "c": torch.arange(3)}
    packed = pack(tensors)
    assert packed == pack(dict(reversed(tensors.items())))
    found = unpack(packed)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()
    assert pack({**tensors, "c": torch.tensor([0, 1, 3])}) != packed
    assert pack({"t": tensors["b"].T}) == pack({"t": tensors["b"].T.contiguous()})


@pytest.mark.parametrize("slow", [False, True])
def test_written_checkpoints_are_read_back(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """By way of files, while training goes on: each record is of the moment it was asked for, however long its copies take."""
    if slow:
        copy = Buffers.copy
        monkeypatch.setattr(Buffers, "copy", lambda self, value: [time.sleep(0.02 * ("optimizer" in value)), copy(self, value)][1])
    material = material_of(bench, "everything")
    folder, records = Folder(tmp_path), list[Record]()
    writer = Writer(folder, "jobs/job_x/000001-0", records.append)
    run = start(material, (0,), CPU)
    moments = []
    for pause, _ in enumerate(on(run, Task(material, run, CPU))):
        if pause % 5 == 3 and run.reason is None:
            writer.save(*run.capture(), {"step": run.step})
            run.settle = writer.settled
            moments.append((run.step, pack(run.network.learned())))
    writer.finish()
    assert [record["step"] for record in records] == [step for step, _ in moments]
    assert len(moments) > 3
    expected = facts(run)
    for record, (step, weights) in zip(records, moments, strict=True):
        tensors, rest = read(folder, record)
        resumed = start(material, (0,), CPU)
        resumed.restore(tensors, rest)
        assert (resumed.step, pack(resumed.network.learned())) == (step, weights)
        list(on(resumed, Task(material, resumed, CPU)))
        assert facts(resumed) == expected


@pytest.mark.parametrize("which", ["weights", "state"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_never_read(bench: Any, tmp_path: Path, which: str, damage: str) -> None:
    run = start(material_of(bench, "plain"), (0,), CPU)
    folder, records = Folder(tmp_path), list[Record]()
    writer = Writer(folder, "jobs/job_x/000001-0", records.append)
    writer.save(*run.capture(), {})
    writer.finish()
    path = folder.path(records[0]["files"][which]["key"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with pytest.raises(ArtifactCorrupt):
        read(folder, records[0])
