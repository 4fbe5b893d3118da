"""Rows of an ONNX graph: raw values in, encoded rows as networks take them out, by the rules of `Encoding`."""

import numpy as np

from service.data.encoding import CategoricalInput, Encoding
from service.inference.rows import MISSING
from service.onnx.graph import Graph

FLOAT = 1  # TensorProto.FLOAT
NUMBERS, TEXTS = "input", "categories"
"""The inputs: an array or the numeric columns, and the categorical columns, each in the signature's order."""


def encoded(graph: Graph, encoding: Encoding) -> str:
    """Rows [N, *shape] of the graph's inputs; NaN and the texts of an empty cell are missing."""
    if encoding.array is None:
        return _table(graph, encoding)
    x, fill = graph.take(NUMBERS, encoding.shape), encoding.array.fill
    if fill is None:
        return x
    mean = graph.constant(np.asarray(fill, dtype=np.float32).reshape(encoding.shape))
    return graph.add("Where", graph.add("IsNaN", x), mean, x)


def _table(graph: Graph, encoding: Encoding) -> str:
    """Numeric columns, one-hot columns, indicators of missing numbers."""
    parts, indicators = [], []
    if encoding.numeric:
        x = graph.take(NUMBERS, (len(encoding.numeric),))
        missing = graph.add("IsNaN", x)
        fills = graph.constant(np.array([column.fill for column in encoding.numeric], dtype=np.float32))
        parts.append(graph.add("Where", missing, fills, x) if encoding.missing == "impute" else x)
        places = [i for i, column in enumerate(encoding.numeric) if column.indicator]
        indicators = [_number(graph, graph.add("Gather", missing, graph.numbers(*places), axis=1))] if places else []
    if encoding.categorical:
        texts = graph.take(TEXTS, (len(encoding.categorical),), "string")
        for i, column in enumerate(encoding.categorical):
            parts += _one_hot(graph, graph.add("Gather", texts, graph.numbers(i), axis=1), column)
    parts += indicators
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def _one_hot(graph: Graph, text: str, column: CategoricalInput) -> list[str]:
    """The columns of a category [N, 1]: one for each it knows, for others, for missing ones, as `CategoricalInput.place` says."""
    gap = _among(graph, text, MISSING)
    parts, found = [], gap
    if column.categories:
        known = _equal(graph, text, column.categories)
        parts, found = [known], graph.add("Max", gap, _any(graph, known))
    parts += [graph.add("Sub", graph.real(1.0), found)] if column.other else []
    return [*parts, gap] if column.missing else parts


def _equal(graph: Graph, text: str, names: tuple[str, ...]) -> str:
    return _number(graph, graph.add("Equal", text, graph.constant(np.array([names], dtype=np.str_))))


def _among(graph: Graph, text: str, names: tuple[str, ...]) -> str:
    return _any(graph, _equal(graph, text, names))


def _any(graph: Graph, hits: str) -> str:
    return graph.add("ReduceMax", hits, graph.numbers(1), keepdims=1)


def _number(graph: Graph, truth: str) -> str:
    return graph.add("Cast", truth, to=FLOAT)
