"""`model.onnx`: a model's default predictor as one ONNX graph, from raw rows to answers in the targets' own units."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from service.errors import TooLarge
from service.inference.asking import network_weights
from service.inference.graph_inputs import encoded
from service.inference.model import Model
from service.onnx.graph import Graph
from service.tricks.decisions import Costs, Rule, Threshold
from service.tricks.modes import Asking
from service.tricks.multitask import Target
from service.tricks.reconstruction import exported_error
from service.tricks.targets import Nodes

FILE = "model.onnx"
FORMAT = 1
MOST_BYTES = 2**30
"""Most bytes of weights in one answer; a file of this format has less than 2^31."""


class Said(NamedTuple):
    """What the members say of a target, with their weights."""

    target: Target
    place: int
    members: list[Nodes]
    weights: list[float]


class Output(NamedTuple):
    """A value that the graph gives, with its shape for one row."""

    name: str
    value: str
    shape: tuple[int, ...]
    kind: str = "float32"


def onnx(model: Model) -> bytes:
    """The file; equal models give equal bytes. Raises Conflict where something has no operators, TooLarge."""
    tensors = model.tensors()
    if sum(tensor.nbytes for tensor in tensors.values()) > MOST_BYTES:
        raise TooLarge(f"The weights take more than {MOST_BYTES} bytes; take model.safetensors.", slug="cost-limit")
    axes = Asking().axes(model)
    graph = Graph({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
    x = encoded(graph, model.encoding)
    asked = [model.networks[member] for member in axes.members]
    said = [network.exported(graph, x) for network in asked]
    weights = network_weights(axes, len(asked)).tolist()
    described = []
    for place, target in enumerate(model.spec.targets or ()):
        scale = asked[0].units[place]
        nodes = [target.exported(graph, raw[target.name], scale.mean, scale.std) for _, raw in said]
        outputs = _outputs(graph, model, Said(target, place, nodes, weights), x)
        if target.from_inputs and len(asked) == 1:
            outputs.append(Output("code", said[0][0], (asked[0].trunk.features,)))
        prefix = "" if len(model.spec.targets or ()) == 1 else f"{target.name}."
        for output in outputs:
            graph.give(prefix + output.name, output.value, output.shape, output.kind)
        described.append(_described(model, target, place, [prefix + output.name for output in outputs]))
    about = {"format": FORMAT, "inputs": [column.name for column in model.encoding.inputs], "targets": described, "mode": axes.mode}
    return graph.encode({"temper": json.dumps({**about, "members": [model.numbers[i] if model.numbers else i for i in axes.members]})})


def _described(model: Model, target: Target, place: int, outputs: Sequence[str]) -> dict[str, Any]:
    """What the file says of a target."""
    return {"name": target.name, "task": target.task, "classes": model.classes[place], "outputs": outputs}


def _outputs(graph: Graph, model: Model, said: Said, x: str) -> list[Output]:
    """The outputs of one target."""
    width = model.networks[0].spec.widths[said.place]
    if said.target.says == "classes":
        return _classes(graph, said, width, model.decision(said.target))
    mean = _average(graph, [_there(each.mean) for each in said.members], said.weights)
    if said.target.from_inputs:
        shape = model.encoding.shape
        error = exported_error(graph, mean, graph.add("Flatten", x), model.networks[0].units[said.place].std)
        return [Output("prediction", graph.reshaped(mean, *shape), shape), Output("error", error, ())]
    found = [Output("prediction", mean, (width,))]
    variance = _variance(graph, model, said, mean)
    if variance is not None:
        found.append(Output("std", graph.add("Sqrt", variance), (width,)))
    if said.target.quantiles:
        quantiles = _average(graph, [_there(each.quantiles) for each in said.members], said.weights)
        found.append(Output("quantiles", quantiles, (width, len(said.target.quantiles))))
    return found


def _classes(graph: Graph, said: Said, width: int, decision: Rule) -> list[Output]:
    """Probabilities, and the number of the class that the target decides for."""
    each = [graph.add("Softmax", _there(nodes.logits), axis=-1) for nodes in said.members]
    p = _average(graph, each, said.weights)
    return [Output("probabilities", p, (width,)), Output("prediction", _decided(graph, p, decision), (), "int64")]


def _decided(graph: Graph, p: str, decision: Rule) -> str:
    """The operators of `decide`."""
    if isinstance(decision, Threshold) and decision.threshold != "validation":
        second = graph.add("Gather", p, graph.constant(np.array(1)), axis=1)
        return graph.add("Cast", graph.add("GreaterOrEqual", second, graph.real(decision.threshold)), to=7)  # TensorProto.INT64
    if isinstance(decision, Costs):
        return graph.add("ArgMin", graph.add("MatMul", p, graph.constant(np.array(decision.costs, np.float32))), axis=-1, keepdims=0)
    return graph.add("ArgMax", p, axis=-1, keepdims=0)


def _variance(graph: Graph, model: Model, said: Said, mean: str) -> str | None:
    """The mean of the variances that are known, and the variance of the means where there are several."""
    parts, noise = [], model.noise(said.target)
    if all(each.variance is not None for each in said.members):
        parts.append(_average(graph, [_there(each.variance) for each in said.members], said.weights))
    elif noise is not None:
        parts.append(graph.add("Expand", graph.constant(noise.float().numpy()), graph.add("Shape", mean)))
    if len(said.members) > 1:
        apart = [graph.add("Sub", _there(each.mean), mean) for each in said.members]
        parts.append(_average(graph, [graph.add("Mul", gap, gap) for gap in apart], said.weights))
    return graph.add("Sum", *parts) if parts else None


def _average(graph: Graph, values: Sequence[str], weights: Sequence[float]) -> str:
    """The weighted sum."""
    if len(values) == 1:
        return values[0]
    return graph.add("Sum", *(graph.add("Mul", value, graph.real(weight)) for value, weight in zip(values, weights, strict=True)))


def _there(name: str | None) -> str:
    if name is None:
        raise TypeError("a head says what its kind says")
    return name
