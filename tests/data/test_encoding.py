"""The fit of an encoding: what it holds at once does not grow with the rows, and blocks do not show."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from service import blocks
from service.data.columns import Columns
from service.data.encoding import Encoding, Features, fit
from service.data.parse import Request, parse

ROWS, WIDTH = 600, 4000


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Columns:
    """19 MB as they are needed in the fit, in rows of 32 kB."""
    folder = tmp_path_factory.mktemp("wide")
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    x[::5, ::7] = np.nan
    np.savez(folder / "source", x=x, y=np.arange(ROWS) % 2)
    parse(Request(source=str(folder / "source.npz"), folder=str(folder), declared={"missing": "nan"}))
    return Columns(folder)


def fitted(columns: Columns) -> Encoding:
    return fit(columns, [columns.description.field("x")], np.arange(ROWS), Features())


def test_wide_rows_are_fitted_in_small_blocks(columns: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Any = fitted(columns).inputs[0]
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 20)
    tracemalloc.start()
    try:
        found: Any = fitted(columns).inputs[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20
    assert (found.low, found.high) == (whole.low, whole.high)
    np.testing.assert_allclose(found.fill, whole.fill, rtol=1e-9, atol=1e-12)
