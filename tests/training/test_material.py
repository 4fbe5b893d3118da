"""What a network sees of a dataset: one rule for training rows and requests, fitted on the training rows alone."""

from typing import Any

import numpy as np
import pytest
import torch

from service.data.columns import Columns
from service.inference.material import Material
from service.inference.rows import read_rows

N = 80
STREAM = np.random.default_rng(0)
HEIGHT = STREAM.normal(170, 10, N).round(2)
WEIGHT = [None if i % 9 == 0 else round(value, 2) for i, value in enumerate(STREAM.normal(70, 12, N).tolist())]
COLOUR = [None if i % 13 == 0 else ("red", "green", "blue", "red")[i % 4] for i in range(N)]
MEMBER = [("true", "false")[i % 3 == 0] for i in range(N)]
TESTED = list(range(60, 80))


def people(bench: Any, **changed: Any) -> Material:
    columns = {"height": HEIGHT, "weight": WEIGHT, "colour": COLOUR, "member": MEMBER, "pay": (HEIGHT * 20).round(1), **changed}
    name = bench.table(f"people-{'-'.join(changed) or 'all'}", columns, targets=["pay"])
    found: Material = bench.material(name, split={"test_rows": TESTED, "validation": 0.2})
    return found


def test_requests_are_encoded_as_training_rows_are(bench: Any) -> None:
    material = people(bench)
    columns = Columns(bench.folder / "people-all")
    names = [column.name for column in material.encoding.inputs]
    rows = [entry["values"] for entry in columns.rows_page(0, N)]
    objects = [{name: row[name] for name in names} for row in rows]
    lists = [[row[name] for name in names] for row in rows]
    for sent in (objects, lists):
        assert np.array_equal(read_rows(sent, material.encoding, most=N), material.inputs)
    one_by_one = np.concatenate([read_rows([row], material.encoding, most=N) for row in lists])
    assert np.array_equal(one_by_one, material.inputs)


def test_numbers_come_first_then_categories_then_indicators(bench: Any) -> None:
    material = people(bench)
    train = material.parts.train
    known = [WEIGHT[i] for i in train if WEIGHT[i] is not None]
    expected = np.zeros((N, 9), dtype=np.float32)
    for i in range(N):
        expected[i, 0] = HEIGHT[i]
        expected[i, 1] = WEIGHT[i] if WEIGHT[i] is not None else np.mean(known)
        expected[i, 2 + ("blue", "green", "red", None).index(COLOUR[i])] = 1
        expected[i, 6 + ("false", "true").index(MEMBER[i])] = 1
        expected[i, 8] = WEIGHT[i] is None
    np.testing.assert_allclose(material.inputs, expected, rtol=1e-6)
    assert material.encoding.plain == 7
    z = material.preprocess(torch.from_numpy(material.inputs[train]))
    torch.testing.assert_close(z[:, :2].mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(z[:, :2].std(0, correction=0), torch.ones(2), rtol=1e-5, atol=0)
    assert torch.equal(z[:, 2:], torch.from_numpy(material.inputs[train][:, 2:]))


def test_test_rows_have_no_part_in_the_fit(bench: Any) -> None:
    """Leak test: neither in the fill, nor in bounds, nor in normalizers, nor in the target's unit."""
    plain = people(bench)
    height, pay, colour = HEIGHT.copy(), (HEIGHT * 20).round(1), [*COLOUR]
    height[TESTED], pay[TESTED] = 1e6, -1e7
    colour[70] = "ultraviolet"
    weight = [1e6 if i in TESTED else value for i, value in enumerate(WEIGHT)]
    changed = people(bench, height=height, pay=pay, colour=colour, weight=weight)
    assert changed.encoding == plain.encoding
    assert torch.equal(changed.preprocess.shift, plain.preprocess.shift)
    assert torch.equal(changed.preprocess.scale, plain.preprocess.scale)
    assert torch.equal(changed.scales[0].mean, plain.scales[0].mean)
    assert torch.equal(changed.scales[0].std, plain.scales[0].std)
    assert np.array_equal(changed.inputs[changed.parts.train], plain.inputs[plain.parts.train])
    assert bool((changed.inputs[70, 2:6] == 0).all()), "a category that training never saw is none of its columns"


def test_the_targets_unit_is_that_of_its_training_rows(bench: Any) -> None:
    material = people(bench)
    truth = material.originals["pay"]
    mean, std = truth[material.parts.train].mean(0), truth[material.parts.train].std(0)
    np.testing.assert_allclose(material.scales[0].mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(material.scales[0].std.numpy(), std, rtol=1e-6)
    np.testing.assert_allclose(material.labels["pay"].numpy(), (truth - mean) / std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 255), (np.float32, 1.0)])
def test_images_keep_their_type_and_their_unit(bench: Any, dtype: Any, scale: float) -> None:
    stream = np.random.default_rng(0)
    x = (stream.random((50, 6, 6)) * scale).astype(dtype)
    name = bench.arrays(f"images-{np.dtype(dtype).name}", x=x, y=np.arange(50) % 2)
    material = bench.material(name, architecture={"type": "mlp", "hidden": [4]}, epochs=2, split={"test": 0.2, "validation": 0.2})
    assert material.inputs.dtype == dtype
    train = x[material.parts.train].astype(float)
    assert float(material.preprocess.shift.squeeze()) == pytest.approx(train.mean(), rel=1e-6)
    assert float(material.preprocess.scale.squeeze()) == pytest.approx(train.std(), rel=1e-6)
    assert (material.encoding.array.low, material.encoding.array.high) == (pytest.approx(train.min()), pytest.approx(train.max()))
    model = bench.model(material, bench.train(material))
    rows = torch.from_numpy(np.array(x[:5]))
    with torch.no_grad():
        assert torch.equal(model.networks[0](rows)["y"], model.networks[0](rows.float())["y"])


def test_classes_are_in_the_order_of_their_values(bench: Any) -> None:
    numbers = bench.table("grades", {"a": np.arange(40), "grade": [10, 2, 9, 1] * 10}, targets=["grade"])
    material = bench.material(numbers, targets=[{"task": "classification", "name": "grade"}])
    assert material.classes == (("1", "2", "9", "10"),)
    assert material.labels["grade"].tolist() == [3, 1, 2, 0] * 10
    words = bench.table("words", {"a": np.arange(40), "word": ["b", "a", None, "c"] * 10}, targets=["word"])
    material = bench.material(words)
    assert material.classes == (("a", "b", "c"),)
    assert material.labels["word"].tolist() == [1, 0, -1, 2] * 10
