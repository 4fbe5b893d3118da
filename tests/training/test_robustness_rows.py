"""What a robustness result says of its rows."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.tricks.regression import Regression
from workers.training.robustness import Ground

CASES = [([[1.0], [2.0], [3.0]], [1.0, 3.0]), ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[1.0, 2.0], [5.0, 6.0]])]


@pytest.mark.parametrize(("numbers", "said"), CASES)
def test_labels_of_numbers_are_as_the_dataset_has_them(numbers: Any, said: Any) -> None:
    """One number a row, or several."""
    target = Regression(name="z")
    known: Any = SimpleNamespace(
        _rows=np.array([0, 2]),
        model=SimpleNamespace(classes=(None,)),
        target=target,
        _material=SimpleNamespace(originals={"z": np.array(numbers)}),
    )
    assert Ground.labelled(known, [(0, 2)]) == {"row": [0, 2], "label": said}
