"""`model.onnx` beside the service's own answers, by ONNX Runtime: every architecture, task and kind of input."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from service.catalog import UNIONS, kinds, tag_of
from service.errors import Conflict, TooLarge
from service.inference import exporting
from service.inference.asking import ask
from service.inference.exporting import onnx as exported
from service.inference.model import Model, Settled, serving
from service.inference.pools import Classes
from service.inference.predicting import predict
from service.inference.rows import read_rows
from service.nets.architecture import Trunk
from service.nets.gates import Gated
from service.nets.network import Network
from service.nets.pruning import pruned
from service.onnx.graph import Graph
from service.tricks.modes import Asking

MLP = {"type": "mlp", "hidden": [12, 12]}
CODE = {"type": "conv_autoencoder", "channels": [3, 5]}
BOTH = [{"name": "input", "task": "reconstruction"}, {"name": "label"}]
TWO = {"architecture": {**MLP, "logit_scale": 9.0}, "features": {"use": ["a", "b"]}}
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity")
LISTED = [
    {"type": "convolution", "channels": 4, "kernel": 3, "dilation": 2, "groups": 1},
    {"type": "batch_norm"},
    {"type": "activation", "function": "elu"},
    {"type": "residual", "layers": [
        {"type": "convolution", "channels": 4, "groups": 2}, {"type": "activation"}, {"type": "convolution", "channels": 6, "stride": 2}
    ], "shortcut": [{"type": "convolution", "channels": 6, "kernel": 1, "stride": 2}]},
    {"type": "layer_norm"},
    {"type": "max_pool", "kernel": 2, "stride": 1},
    {"type": "dropout", "rate": 0.2},
    {"type": "flatten"},
    {"type": "linear", "width": 12}, {"type": "layer_norm"},
    {"type": "linear", "width": 12, "name": "again"}, {"type": "share", "as": "again"},
]  # fmt: skip
CODED = [
    {"type": "convolution", "channels": 4, "padding": 1},
    {"type": "max_pool", "kernel": 3},
    {"type": "average_pool", "kernel": 2, "stride": 1},
    {"type": "activation", "name": "code", "function": "identity"},
    {"type": "unpool", "of": "average_pool.0"},
    {"type": "unpool", "of": "max_pool.0"},
    {"type": "convolution", "channels": 3, "kernel": 2},
]
SPREAD = [
    {"type": "convolution", "channels": 4, "kernel": 4, "stride": 3, "padding": 2},
    {"type": "transposed_convolution", "channels": 6, "groups": 2, "kernel": 4, "stride": 2},
    {"type": "transposed_convolution", "channels": 4, "kernel": 3, "dilation": 2, "padding": 1, "bias": False},
    {"type": "reshape", "shape": [2, 5, 4]},
    {"type": "layer_norm"},
    {"type": "batch_norm"},
    {"type": "transposed_convolution", "channels": 2, "kernel": 3, "stride": 2, "size": [3, 9]},
    {"type": "flatten"},
]
DENSE = [{"type": "linear", "width": 8}, {"type": "batch_norm"}, {"type": "activation"}, {"type": "reshape", "shape": [4, 2]}]
# Dataset and fields of a job.
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("digits", {"architecture": {"type": "mlp", "hidden": []}}),
    **{f"mlp {name}": ("digits", {"architecture": {**MLP, "activation": name, "bias": False}}) for name in ACTIVATIONS},
    "mlp residual": ("digits", {"architecture": {**MLP, "hidden": [9] * 5, "residual": True, "batch_norm": True, "logit_scale": 2.5}}),
    "mlp shared": ("digits", {"architecture": {**MLP, "hidden": [12] * 3}, "regularizers": [{"type": "share", "layers": ["hidden.[12]"]}]}),
    "per feature": ("onnx_waves", {"architecture": MLP, "preprocessing": {"per": "feature", "normalize": "minmax"}}),
    "cnn": ("digits", {"architecture": {"type": "cnn", "channels": [4, 6], "hidden": [12], "batch_norm": True, "activation": "silu"}}),
    "cnn even": ("photos", {"architecture": {"type": "cnn", "channels": [4], "kernel": 4, "stride": 2, "pool": "average", "hidden": []}}),
    "cnn of sequences": ("onnx_waves", {"architecture": {"type": "cnn", "channels": [4, 4], "pool": "average"}}),
    "cnn of colours": ("onnx_colours", {"architecture": {"type": "cnn", "channels": [4], "kernel": 2, "pool": "none"}}),
    "resnet": ("digits", {"architecture": {"type": "resnet", "depth": 8, "width": 4}}),
    "resnet of sequences": ("onnx_waves", {"architecture": {"type": "resnet", "depth": 8, "width": 4}}),
    "preactivation": ("digits", {"architecture": {"type": "resnet", "depth": 8, "width": 4, "block": "preactivation"}}),
    "bottleneck": ("onnx_colours", {"architecture": {"type": "resnet", "depth": 11, "width": 2, "block": "bottleneck"}}),
    "plain twin": ("digits", {"architecture": {"type": "resnet", "depth": 8, "width": 4, "residual": False}}),
    "autoencoder": ("digits", {"architecture": {"type": "autoencoder", "hidden": [9], "code": 4, "tied": True}, "targets": BOTH}),
    "autoencoder untied": ("digits", {"architecture": {"type": "autoencoder", "hidden": [9], "code": 4, "activation": "tanh"}}),
    **{f"convolution of {k}": ("digits", {"architecture": {**CODE, "kernel": k, "code": 5}, "targets": BOTH}) for k in (1, 2, 3, 4, 5)},
    **{f"sequences by {k}": ("onnx_waves", {"architecture": {**CODE, "kernel": k, "tied": True}}) for k in (1, 2, 3, 4, 5)},
    "unpooling": ("onnx_colours", {"architecture": {**CODE, "upsampling": "unpooling", "tied": True, "code": 4}}),
    "unpooling by 4": ("onnx_waves", {"architecture": {**CODE, "upsampling": "unpooling", "kernel": 4}}),
    "lstm": ("onnx_waves", {"architecture": {"type": "recurrent", "hidden": [6, 5]}}),
    "gru": ("onnx_waves", {"architecture": {"type": "recurrent", "cell": "gru", "hidden": [6, 4], "bidirectional": True}}),
    "rnn": ("onnx_waves", {"architecture": {"type": "recurrent", "cell": "rnn", "bidirectional": True}}),
    "layers": ("digits", {"architecture": {"type": "layers", "layers": LISTED}}),
    "layers coded": ("onnx_colours", {"architecture": {"type": "layers", "layers": CODED}, "targets": [BOTH[0], {"name": "y"}]}),
    "layers of sequences": ("onnx_waves", {"architecture": {"type": "layers", "layers": SPREAD}}),
    "layers of a table": ("onnx_pairs", {"architecture": {"type": "layers", "layers": DENSE}}),
    "no layers": ("digits", {"architecture": {"type": "layers", "layers": []}}),
    "several": ("several", {"architecture": MLP, "targets": [{"name": "policy"}, {"name": "value", "output": "tanh"}, {"name": "kind"}]}),
    "gaussian": ("diabetes", {"architecture": MLP, "targets": [{"name": "target", "loss": "gaussian_nll"}]}),
    "quantiles": ("onnx_pairs", {"architecture": MLP, "targets": [{"name": "y", "loss": "quantile", "quantiles": [0.1, 0.4, 0.6, 0.9]}]}),
    "noise": ("onnx_pairs", {"architecture": MLP, "targets": [{"name": "y", "loss": "huber"}]}),
    "known noise": ("onnx_pairs", {"architecture": MLP, "targets": [{"name": "y", "noise_std": 3.0}]}),
    "costs": ("gappy", {**TWO, "targets": [{"name": "kind", "decision": {"costs": [[0, 99], [1, 0]]}}]}),
    "threshold": ("gappy", {**TWO, "targets": [{"name": "kind", "decision": {"threshold": 0.99}}]}),
    "constant": ("onnx_fixed", {"architecture": {"type": "autoencoder", "hidden": [], "code": 2}}),
    "constant original": (
        "onnx_fixed",
        {"architecture": {"type": "autoencoder", "code": 2}, "targets": [{"name": "input", "loss": "mse_original"}]},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def datasets(bench: Any) -> Any:
    """The bench, with all that the jobs are of."""
    stream = np.random.default_rng(0)
    x = stream.normal(size=(60, 9, 3)).astype(np.float32)
    bench.arrays("onnx_waves", x=x, y=np.where(x[:, :, 0].sum(1) > 0, "up", "down"))
    bench.arrays("onnx_colours", x=stream.integers(0, 256, size=(40, 7, 6, 3)).astype(np.uint8), y=np.arange(40) % 3)
    rows = stream.normal(size=(60, 4)).astype(np.float32)
    bench.arrays("onnx_pairs", x=rows, y=100 + 20 * rows[:, :2])
    bench.table("onnx_fixed", {"a": rows[:, 0].tolist(), "same": [0.1] * 60, "b": rows[:, 1].tolist(), "c": rows[:, 2].tolist()})
    bench.several()
    bench.photos()
    bench.gappy()
    return bench


def made(bench: Any, name: str, *, size: int = 2, **changed: Any) -> tuple[Model, Tensor]:
    """A model of members that began and did not learn, their running statistics no longer 0 and 1; rows that it takes."""
    dataset, fields = JOBS[name]
    material = bench.material(dataset, **{**fields, "ensemble": {"size": size}, **changed})
    networks = [serving(material.initial(member)) for member in range(size)]
    for i, network in enumerate(networks):
        stir(network, i)
    return Model(material.spec, material.encoding, material.classes, tuple(networks), 0), material.rows(np.arange(7))[0].float()


def stir(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm1d)):
        for tensor in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
            assert tensor is not None
            tensor.add_(torch.rand(tensor.shape, generator=generator))


def run(content: bytes, **inputs: Any) -> dict[str, Any]:
    """What ONNX Runtime makes of a file that ONNX's own checker takes."""
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def about(content: bytes) -> Any:
    (entry,) = onnx.load_from_string(content).metadata_props
    return json.loads(entry.value)


def same(found: Mapping[str, Any], model: Model, x: Tensor) -> None:
    """The file's answers are those of the service, in float32."""
    axes = Asking().axes(model)
    for place, target in enumerate(model.spec.targets or ()):
        prefix = f"{target.name}." if len(model.spec.targets or ()) > 1 else ""
        answer = ask(model, x, axes)[target.name]
        expected: dict[str, Any] = {}
        if isinstance(answer, Classes):
            expected["probabilities"] = answer.probabilities
            assert found[prefix + "prediction"].tolist() == answer.prediction.tolist()
        else:
            expected["prediction"] = answer.mean if not target.from_inputs else answer.mean.view(len(x), *model.encoding.shape)
            if answer.variance is not None and not target.from_inputs:
                expected["std"] = answer.variance.sqrt()
            if answer.quantiles is not None:
                expected["quantiles"] = answer.quantiles
            if target.from_inputs:
                expected["error"] = torch.tensor(predict(model, x, axes, parts=["error"])[target.name]["error"])
                if len(axes.members) == 1:
                    expected["code"] = torch.tensor(predict(model, x, axes, parts=["code"])[target.name]["code"])
        unit = float(model.networks[0].units[place].std.max()) if target.says == "numbers" else 1.0
        assert {prefix + name for name in expected} <= found.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[prefix + name], values.numpy(), rtol=1e-5, atol=1e-5 * unit, err_msg=name)


@pytest.mark.parametrize("name", [name for name, (dataset, _) in JOBS.items() if dataset != "gappy"])
def test_a_file_answers_as_the_service_does(datasets: Any, name: str) -> None:
    for size in (1, 3):
        model, x = made(datasets, name, size=size)
        content = exported(model)
        assert content == exported(model), "equal models, equal bytes"
        same(run(content, input=x.numpy()), model, x)
        same(run(content, input=x[:1].numpy()), model, x[:1])


def raw(network: Network, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first target's raw outputs: the network's in float32 and in float64, and those of its operators."""
    graph = Graph()
    _, said = network.exported(graph, graph.take("input", network.spec.shape))
    graph.give("raw", said["label"], (10,))
    by_file = torch.from_numpy(run(graph.encode({}), input=x.numpy())["raw"])
    return network(x)["label"], deepcopy(network).double()(x.double())["label"], by_file


def test_fifty_six_layers_differ_by_rounding_alone(datasets: Any) -> None:
    """Fresh batch norm has statistics that are not its batches': signals double from block to block, and rounding with them.

    Neither side is nearer to the same network in float64. With statistics of batches the difference is within 1e-5 as it stands.
    """
    material = datasets.material("digits", architecture={"type": "resnet", "depth": 56, "width": 4})
    network, x = serving(material.initial(1)), material.rows(np.arange(64))[0].float()
    own, exact, by_file = raw(network, x)
    largest, ours, theirs = float(exact.abs().max()), float((own - exact).abs().max()), float((by_file - exact).abs().max())
    assert largest > 100, "such a network says numbers of this size"
    assert float((own - by_file).abs().max()) < 2e-6 * largest
    assert max(ours, theirs) < 4 * min(ours, theirs)
    network.train().requires_grad_(True)
    with torch.no_grad():
        for _ in range(60):
            network(x)
    own, exact, by_file = raw(serving(network), x)
    assert float(exact.abs().max()) < 30
    torch.testing.assert_close(by_file, own, rtol=0, atol=2e-5)
    torch.testing.assert_close(by_file.softmax(1), own.softmax(1), rtol=0, atol=1e-5)


def test_every_architecture_is_in_some_job() -> None:
    used = {fields["architecture"]["type"] for _, fields in JOBS.values()}
    assert used == {tag_of(kind)[1] for kind in kinds(UNIONS["architectures"])}


# --- members, decisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp relu", "noise", "gaussian"])
def test_members_count_as_the_model_weighs_them(datasets: Any, name: str) -> None:
    model, x = made(datasets, name, size=3)
    weighed = replace(model, weights=(0.7, 0.0, 0.3))
    found = run(exported(weighed), input=x.numpy())
    same(found, weighed, x)
    said = "probabilities" if "probabilities" in found else "prediction"
    assert not np.allclose(found[said], run(exported(model), input=x.numpy())[said])
    assert about(exported(weighed))["members"] == [0, 2]


@pytest.mark.parametrize("name", ["costs", "threshold"])
def test_the_class_is_the_one_that_the_target_decides_for(datasets: Any, name: str) -> None:
    model, _ = made(datasets, name, size=1)
    raw = 20 * np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    x = torch.from_numpy(read_rows(raw.tolist(), model.encoding, most=200))
    found = run(exported(model), input=raw)
    same(found, model, x)
    changed = found["prediction"] != found["probabilities"].argmax(1)
    assert changed.any(), "it is not the most probable one everywhere"
    settled = replace(model, settled={"kind": Settled(threshold=0.55)})
    same(run(exported(settled), input=raw), settled, x)


def test_noise_from_validation_rows_is_in_the_spread(datasets: Any) -> None:
    targets = [{"name": "y", "noise_std": "validation"}]
    model, x = made(datasets, "noise", size=2, targets=targets)
    settled = replace(model, settled={"y": Settled(noise_std=(2.0, 3.0))})
    found = run(exported(settled), input=x.numpy())
    same(found, settled, x)
    assert (found["std"] >= [2.0, 3.0]).all()
    assert "std" in run(exported(model), input=x.numpy()), "of several members the spread of their answers is known"
    assert "std" not in run(exported(made(datasets, "noise", size=1)[0]), input=x.numpy())


def test_weights_have_their_names_and_stand_once(datasets: Any) -> None:
    """Tied layers, and the normalizer of all members, are constants that are used twice."""
    for name in ("autoencoder", "mlp shared", "sequences by 3"):
        model, _ = made(datasets, name)
        stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load_from_string(exported(model)).graph.initializer}
        tensors = {key: tensor for key, tensor in model.tensors().items() if key in stored}
        assert {key for key in model.tensors() if key.endswith("weight")} <= tensors.keys()
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(stored[key], tensor.numpy())
        weights = [entry.tobytes() for entry in stored.values() if entry.ndim > 1]
        assert len(weights) == len(set(weights)) == len([key for key in tensors if stored[key].ndim > 1])


def test_inputs_that_are_not_read_are_left_out_inside(datasets: Any) -> None:
    gates = [{"type": "l0", "alpha": 0.01}]
    model, x = made(datasets, "mlp relu", size=1, regularizers=gates)
    (whole,) = model.networks
    for module in whole.modules():
        if isinstance(module, Gated):
            module.log_alpha.data[::3] = -9.0
    (small,), cut = pruned([whole])
    assert cut is not None
    assert cut.reads == 42
    cutting = replace(model, networks=(serving(small),), cut=cut)
    same(run(exported(cutting), input=x.numpy()), cutting, x)


# --- rows -----------------------------------------------------------------------------------------------------------

TABLE = {
    "size": [None if i % 9 == 4 else float(i % 7) for i in range(90)],
    "kind": [None if i % 11 == 3 else ["red", "green", "blue", "grey"][min(i % 6, 3)] for i in range(90)],
    "width": [0.5 * (i % 5) for i in range(90)],
    "open": ["true" if i % 3 else "false" for i in range(90)],
    "y": [float(i % 7) + i % 3 for i in range(90)],
}


@pytest.mark.parametrize("features", [{}, {"max_categories": 2}, {"missing": "error"}, {"drop": ["kind", "open"]}, {"use": ["kind"]}])
def test_rows_of_a_table_go_in_as_they_are(bench: Any, features: dict[str, Any]) -> None:
    """Numbers with NaN, and texts, of which some were never seen and some are missing."""
    whole = features.get("missing") == "error"
    table = {name: [value for value in column if value is not None][:70] for name, column in TABLE.items()} if whole else TABLE
    name = bench.table("onnx_whole" if whole else "onnx_mixed", table, targets=["y"])
    material = bench.material(name, architecture=MLP, features=features)
    model = Model(material.spec, material.encoding, material.classes, (serving(material.initial(0)),), 0)
    inputs = material.encoding.inputs
    gap = 3.0 if whole else None
    given: dict[str, list[Any]] = {
        "size": [1.0, gap, 6.5, -2.0], "width": [0.5, 1.0, gap, 40.0],
        "kind": ["red", "grey", "violet", None if gap is None else "blue"], "open": ["false", "true", "maybe", "true"],
    }  # fmt: skip
    rows = [[given[column.name][i] for column in inputs] for i in range(4)]
    x = torch.from_numpy(read_rows(rows, material.encoding, most=10))
    fed: dict[str, Any] = {}
    if material.encoding.numeric:
        columns = [given[column.name] for column in material.encoding.numeric]
        fed["input"] = np.array(columns, dtype=np.float32).T
    if material.encoding.categorical:
        texts = [["" if text is None else text for text in given[column.name]] for column in material.encoding.categorical]
        fed["categories"] = np.array(texts, dtype=object).T
    same(run(exported(model), **fed), model, x)
    if "kind" in {column.name for column in inputs} and gap is None:
        for word in ("NA", "NaN"):
            again = {**fed, "categories": np.where(fed["categories"] == "", word, fed["categories"])}
            same(run(exported(model), **again), model, x)
    assert about(exported(model))["inputs"] == [column.name for column in inputs]


def test_missing_entries_of_arrays_are_filled_inside(bench: Any) -> None:
    x = np.random.default_rng(0).normal(3.0, 1.0, size=(50, 4, 2)).astype(np.float32)
    x[::4, 1, 0] = np.nan
    material = bench.material(bench.arrays("onnx_holes", x=x, y=np.arange(50) % 2), architecture=MLP)
    model = Model(material.spec, material.encoding, material.classes, (serving(material.initial(0)),), 0)
    same(run(exported(model), input=x[:9]), model, torch.from_numpy(material.encoding.array.filled(x[:9])))


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_has_no_operators_is_refused_and_not_left_out(datasets: Any) -> None:
    model, _ = made(datasets, "mlp relu", size=1)
    model.networks[0].heads[0] = nn.Bilinear(2, 2, 2)
    with pytest.raises(Conflict, match="Bilinear") as refused:
        exported(model)
    assert refused.value.slug == "not-exportable"
    model.networks[0].trunk.__class__ = type("Other", (Trunk,), {})
    with pytest.raises(Conflict, match="Other"):
        exported(model)


def test_too_many_weights_are_refused_beforehand(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = made(datasets, "mlp relu", size=1)
    monkeypatch.setattr(exporting, "MOST_BYTES", 1000)
    with pytest.raises(TooLarge) as refused:
        exported(model)
    assert refused.value.slug == "cost-limit"
