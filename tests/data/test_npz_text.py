"""Text in an NPZ: classes and marks of parts, read as cells of a table are; never objects, never as input."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.data.columns import Columns
from service.data.limits import Limits
from service.data.parse import Request, parse
from service.errors import Invalid

Read = Callable[..., Columns]
X = np.arange(12.0).reshape(6, 2)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(content: bytes, schema: Any = None, limits: Limits | None = None) -> Columns:
        (tmp_path / "source").write_bytes(content)
        parse(Request(source=str(tmp_path / "source"), folder=str(tmp_path), declared=schema, limits=limits or Limits()))
        return Columns(tmp_path)

    return read


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{"x": X, **arrays})
    return file.getvalue()


def crafted(raw: bytes, descr: str, rows: int = 6) -> bytes:
    """An archive with an array `y` of these very bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (rows,)})
    file = io.BytesIO(npz())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("y.npy", header.getvalue() + raw)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
def test_words_are_classes(read: Read, order: str) -> None:
    words = np.array(["cat", "dög", " cat ", "", "NA", "猫"]).astype(f"{order}U9")
    columns = read(npz(y=words))
    field = columns.description.field("y")
    assert (field.kind, field.missing, columns.description.targets) == ("categorical", 2, ("y",))
    assert field.classes == (("cat", 2), ("dög", 1), ("猫", 1))
    assert columns.read("y").tolist() == [0, 1, 0, -1, -1, 2]
    assert columns.rows_page(4, 2)[1]["values"]["y"] == "猫"


def test_words_that_read_like_numbers_stay_classes(read: Read) -> None:
    columns = read(npz(y=np.array(["10", "9", "10", "2", "2", "2"]), flag=np.array(["true", "False"] * 3)))
    assert columns.description.field("y").classes == (("2", 3), ("9", 1), ("10", 2))
    assert columns.description.field("flag").kind == "boolean"
    assert columns.read("flag").tolist() == [1, 0] * 3


def test_a_declared_kind_counts(read: Read) -> None:
    schema = {"fields": {"y": {"kind": "numeric"}, "z": {"kind": "ignore"}}}
    columns = read(npz(y=np.array(["1", " 2.5", "", "4", "5", "6"]), z=np.array(["a"] * 6)), schema)
    np.testing.assert_array_equal(columns.read("y"), [1, 2.5, np.nan, 4, 5, 6])
    assert columns.description.field("z").kind == "ignore"


def test_words_name_the_parts(read: Read) -> None:
    part = np.array(["train", "test", "train", "val", "train", "Test"])
    columns = read(npz(y=np.arange(6) % 2, part=part), {"split_column": "part", "targets": ["y"]})
    assert columns.description.splits == {"train": 3, "validation": 1, "test": 2}
    assert columns.parts().tolist() == [0, 2, 0, 1, 0, 2]


def test_too_many_words_are_ignored_unless_declared(read: Read) -> None:
    content, few = npz(y=np.arange(6) % 2, name=np.array(list("abcdef"))), Limits(classes=3)
    assert read(content, limits=few).description.field("name").kind == "ignore"
    with pytest.raises(Invalid, match="more than 3"):
        read(content, {"fields": {"name": {"kind": "categorical"}}}, limits=few)


NUL, HALF, BEYOND = "a\0b".encode("utf-32-le"), b"\x00\xd8\x00\x00", b"\xff\xff\xff\xff"
REFUSED: dict[str, tuple[bytes, Any, str, str]] = {
    "objects": (npz(y=np.array(["a", "b"] * 3, dtype=object)), None, "forbidden-pickle", "/file"),
    "text as input": (npz(x=np.array([["a", "b"]] * 6)), None, "invalid-data", "/file/x"),
    "a table of text": (npz(y=np.array([["a", "b"]] * 6)), None, "invalid-data", "/file/y"),
    "bytes": (npz(y=np.array([b"a", b"b"] * 3)), None, "invalid-data", "/file"),
    "dates": (npz(y=np.array(["2020-01-01"] * 6, dtype="datetime64[D]")), None, "invalid-data", "/file"),
    "fewer rows": (npz(y=np.array(["a", "b"])), None, "invalid-data", "/file/y"),
    "no length": (crafted(b"", "<U0"), None, "invalid-data", "/file"),
    "half a surrogate pair": (crafted(HALF * 6, "<U1"), None, "invalid-data", "/file/y"),
    "beyond Unicode": (crafted(BEYOND * 6, "<U1"), None, "invalid-data", "/file/y"),
    "NUL": (crafted(NUL * 6, "<U3"), None, "invalid-data", "/file/y"),
    "a part that is none": (npz(y=np.array(["train", "tset"] * 3)), {"split_column": "y"}, "invalid-data", "/schema/split_column"),
    "no number": (npz(y=np.array(["1", "b"] * 3)), {"fields": {"y": {"kind": "numeric"}}}, "invalid-data", "/file/1/y"),
    "an infinite number": (npz(y=np.array(["1", "inf"] * 3)), {"fields": {"y": {"kind": "numeric"}}}, "non-finite", "/file/1/y"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(read: Read, name: str) -> None:
    content, schema, slug, pointer = REFUSED[name]
    with pytest.raises(Invalid) as caught:
        read(content, schema)
    assert (caught.value.slug, [flaw.pointer for flaw in caught.value.flaws]) == (slug, [pointer])
