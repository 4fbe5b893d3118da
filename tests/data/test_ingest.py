"""From files to columns: kinds, statistics, parts, audit and refusals. `parse` in this process, `ingest` in its own."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.data.columns import Columns
from service.data.fields import Description
from service.data.formats import Origin
from service.data.ingest import ROOT, ingest
from service.data.limits import Limits
from service.data.parse import Request, parse
from service.errors import Invalid, TemperError, TooLarge, UnsupportedMediaType

Read = Callable[..., Columns]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(content: bytes, schema: Any = None, limits: Limits | None = None) -> Columns:
        source = tmp_path / "source"
        source.write_bytes(content)
        parse(Request(source=str(source), folder=str(tmp_path), declared=schema, limits=limits or Limits()))
        return Columns(tmp_path)

    return read


def kinds(columns: Columns) -> dict[str, str]:
    return {field.name: field.kind for field in columns.description.fields}


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize("exponent", [0, 300, -300])
def test_statistics_reach_as_far_as_the_numbers(read: Read, exponent: int) -> None:
    """Their squares, and sums of many, are beyond float64; the spread scales as they do."""
    plain = np.random.default_rng(0).normal(3, 1, 2000)
    (field,) = read(("n\n" + "\n".join(repr(float(value * 10.0**exponent)) for value in plain)).encode()).description.fields
    assert field.std is not None
    assert field.mean is not None
    assert field.std / 10.0**exponent == pytest.approx(plain.std(), rel=1e-12)
    assert field.mean / 10.0**exponent == pytest.approx(plain.mean(), rel=1e-12)
    (field,) = read(b"n\n1.7e308\n-1.7e308\n1.7e308\n-1.7e308\n1.7e308\n-1.7e308\n").description.fields
    assert (field.mean, field.std) == (0.0, 1.7e308)


def test_cells_tell_the_kind(read: Read) -> None:
    text = "n,c,b,empty,padded\n1,x,true,, 5 \n2.5e1,NA,FALSE,NaN,+6\nNaN,y,,NA,7\n"
    columns = read(text.encode())
    assert kinds(columns) == {"n": "numeric", "c": "categorical", "b": "boolean", "empty": "ignore", "padded": "numeric"}
    np.testing.assert_array_equal(columns.read("n"), [1, 25, np.nan])
    np.testing.assert_array_equal(columns.read("padded"), [5, 6, 7])
    assert columns.read("c").tolist() == [0, -1, 1]
    assert columns.read("b").tolist() == [1, 0, -1]
    field = columns.description.field("n")
    assert (field.missing, field.min, field.max, field.mean, field.std) == (1, 1, 25, 13, 12)
    assert columns.description.audit.ignored == ("empty",)
    assert columns.rows_page(0, 1) == [{"row": 0, "values": {"n": 1.0, "c": "x", "b": True, "padded": 5.0}}]


def test_text_far_below_numbers_is_read_once_more(read: Read) -> None:
    columns = read(b"a,b\n" + b"1,2\n" * 500_000 + b"x,2\n" + b"1,2\n", limits=Limits(line_bytes=2**20))
    assert kinds(columns) == {"a": "categorical", "b": "numeric"}
    assert columns.description.field("a").classes == (("1", 500_001), ("x", 1))
    assert columns.read("a")[500_000] == 1
    assert columns.rows == len(columns.read("b")) == 500_002


def test_quotes_hold_commas_newlines_and_quotes(read: Read) -> None:
    columns = read(b'a,"b, c"\r\n1,"x\ny"\r\n2,"say ""hi"""\r\n')
    assert columns.description.field("b, c").values == ('say "hi"', "x\ny")


def test_a_byte_order_mark_belongs_to_no_name(read: Read) -> None:
    assert list(kinds(read(b"\xef\xbb\xbfa,b\n1,2\n3,4\n"))) == ["a", "b"]


def test_classes_are_sorted_by_value_where_all_are_numbers(read: Read) -> None:
    schema = {"fields": {"a": {"kind": "categorical"}, "b": {"kind": "categorical"}}}
    columns = read(b"a,b\n10,10\n9,9\n1,x\n", schema)
    assert columns.description.field("a").values == ("1", "9", "10")
    assert columns.description.field("b").values == ("10", "9", "x")
    assert columns.read("a").tolist() == [2, 1, 0]


def test_too_many_texts_are_ignored_unless_declared(read: Read) -> None:
    text = b"id,y\n" + b"".join(b"name%d,1\n" % n for n in range(30))
    assert kinds(read(text, limits=Limits(classes=20)))["id"] == "ignore"
    with pytest.raises(Invalid):
        read(text, {"fields": {"id": {"kind": "categorical"}}}, Limits(classes=20))


def test_defaults_and_declarations_of_targets(read: Read) -> None:
    guessed = read(b"a,y\n1,2\n3,4\n").description
    assert (guessed.targets, guessed.guessed) == (("y",), True)
    declared = read(b"a,y\n1,2\n3,4\n", {"targets": ["a"]}).description
    assert (declared.targets, declared.guessed) == (("a",), False)
    assert [field.name for field in declared.inputs(("a",))] == ["y"]


def test_a_column_gives_the_parts(read: Read) -> None:
    columns = read(b"part,a,y\ntrain,1,0\nval,2,1\ntest,1,0\ntest,5,0\n", {"split_column": "part"})
    assert columns.description.splits == {"train": 1, "validation": 1, "test": 2}
    parts = columns.parts()
    assert parts is not None
    assert parts.tolist() == [0, 1, 2, 2]
    assert [field.name for field in columns.description.inputs(("y",))] == ["a"]
    assert columns.description.audit.duplicates == 1
    assert columns.description.audit.duplicates_across_splits == 1


def test_the_audit_names_what_is_suspicious(read: Read) -> None:
    text = b"a,same,twin,y\n1,5,p,q\n2,5,r,s\n1,5,p,q\n1,5,p,q\n"
    audit = read(text).description.audit
    assert audit.duplicates == 2
    assert audit.duplicates_across_splits is None
    assert audit.constant == ("same",)
    assert audit.equal_to_target == ("twin",)


@pytest.mark.parametrize(
    ("content", "schema", "slug", "words"),
    [
        (b"a,b\n1,2\n3,4\n5\n", None, "ragged", "row 2 has 1"),
        (b"a,b\n1,2\n3,1e999\n", None, "non-finite", "row 1"),
        (b"a,b\n1,2\n", None, "invalid-data", "1 rows"),
        (b"a,a\n1,2\n3,4\n", None, "invalid-data", "name"),
        (b"a,\n1,2\n3,4\n", None, "invalid-data", "column 1"),
        (b"a,b\n1,2\n3,x\n", {"fields": {"b": {"kind": "numeric"}}}, "invalid-data", "row 1, column 'b': 'x'"),
        (b"a,b\n1,yes\n3,x\n", {"fields": {"b": {"kind": "boolean"}}}, "invalid-data", "true or false"),
        (b"a,b\n1,train\n3,x\n", {"split_column": "b"}, "invalid-data", "'x'"),
        (b"a,b\n1,test\n3,test\n", {"split_column": "b"}, "invalid-data", "training"),
        (npz(x=np.zeros((3, 2)), y=np.zeros(2)), None, "invalid-data", "2 rows"),
        (npz(x=np.array([[1.0], [np.nan]])), None, "non-finite", "row 1"),
        (npz(x=np.array([[1.0], [np.inf]])), {"missing": "nan"}, "non-finite", "row 1"),
        (npz(x=np.array(["a", "b"])), None, "invalid-data", "type"),
        (parquet(a=[1, 2], b=[[1], [2]]), None, "invalid-data", "list"),
        (parquet(a=[1.0, float("inf")]), None, "non-finite", "row 1"),
        (parquet(a=["x", "y\0"]), None, "invalid-data", "NUL"),
        (parquet(a=[1, 2])[:-60] + b"PAR1", None, "corrupt-file", "Parquet"),
    ],
)
def test_refusals_name_the_place(read: Read, content: bytes, schema: Any, slug: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(content, schema)
    assert caught.value.slug == slug
    assert words in caught.value.detail


@pytest.mark.parametrize("content", [b"\x80\x04}", b"\x89HDF\r\n\x1a\n\0", b"a,b\n1,\xff\n", b"a\n" + b"1\n" * 90_000 + b"\0\n"])
def test_unknown_content(read: Read, content: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        read(content)


@pytest.mark.parametrize(
    ("filename", "media_type", "fits"),
    [
        ("", "", True), ("data.CSV", "text/csv; charset=utf-8", True), ("data.txt", "application/octet-stream", True),
        ("data.npz", "", False), ("data", "application/vnd.apache.parquet", False), ("data.csv", "application/zip", False),
    ],
)  # fmt: skip
def test_an_origin_may_not_contradict_the_content(tmp_path: Path, filename: str, media_type: str, fits: bool) -> None:
    (tmp_path / "source").write_bytes(b"a,b\n1,2\n3,4\n")
    request = Request(source=str(tmp_path / "source"), folder=str(tmp_path), origin=Origin(filename=filename, media_type=media_type))
    if fits:
        assert parse(request).format == "csv"
    else:
        with pytest.raises(UnsupportedMediaType):
            parse(request)


def test_arrays(read: Read) -> None:
    random = np.random.default_rng(0)
    x, z = random.normal(size=(6, 2, 3)), random.normal(size=(6, 2)).astype(np.float32)
    y, flag, number = np.array([3, 1, 3, 10, 1, 3]), np.array([True, False] * 3), np.array([0.5, np.nan, 1, 2, 3, 4])
    columns = read(npz(y=y, x=np.asfortranarray(x), z=z, flag=flag, number=number))
    assert kinds(columns) == {"x": "tensor", "y": "categorical", "z": "tensor", "flag": "boolean", "number": "numeric"}
    np.testing.assert_array_equal(columns.read("x"), x.astype(np.float32))
    np.testing.assert_array_equal(columns.read("z"), z)
    assert columns.description.field("y").classes == (("1", 2), ("3", 3), ("10", 1))
    assert columns.read("y").tolist() == [1, 0, 1, 2, 0, 1]
    assert columns.read("flag").tolist() == [1, 0] * 3
    assert columns.description.field("number").missing == 1
    assert columns.description.targets == ("y",)
    assert [field.name for field in columns.description.inputs(("y",))] == ["x"]


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [((3, 8, 6), "uint8", "image"), ((3, 8, 8), "float32", "image"), ((3, 8, 6), "float32", "tensor"), ((3, 8, 6, 3), "float32", "image"),
     ((3, 8, 6, 9), "uint8", "tensor"), ((3, 5), "float64", "tensor")],
)  # fmt: skip
def test_arrays_that_are_images(read: Read, shape: tuple[int, ...], dtype: str, kind: str) -> None:
    columns = read(npz(x=np.ones(shape, dtype=dtype)))
    field = columns.description.field("x")
    assert (field.kind, field.shape, field.dtype) == (kind, shape[1:], "uint8" if dtype == "uint8" else "float32")


def test_nan_may_be_declared_to_mean_missing(read: Read) -> None:
    columns = read(npz(x=np.array([[1.0, np.nan], [2.0, 3.0]])), {"missing": "nan"})
    assert columns.description.field("x").missing == 1
    assert columns.rows_page(0, 1) == [{"row": 0, "values": {"x": [1.0, None]}}]


def test_other_arrays_need_a_name(read: Read) -> None:
    x = np.zeros((3, 2))
    assert read(npz(x=x, a=x, b=x)).description.targets == ()
    assert read(npz(x=x, a=x)).description.targets == ("a",)


def test_a_bomb_is_refused_by_its_directory(read: Read) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros((2, 5_000_000)))
    with pytest.raises(TooLarge) as caught:
        read(file.getvalue())
    assert caught.value.slug == "decompressed-too-large"
    with pytest.raises(TooLarge):
        read(npz(x=np.zeros((2, 1000))), limits=Limits(decoded_bytes=10_000))


def test_a_lying_header(read: Read) -> None:
    honest = io.BytesIO()
    np.lib.format.write_array(honest, np.zeros((4, 2)))
    lying = honest.getvalue().replace(b"(4, 2)", b"(9, 2)")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("x.npy", lying)
    with pytest.raises(Invalid) as caught:
        read(file.getvalue())
    assert caught.value.slug == "corrupt-array"


def test_members_that_are_no_plain_arrays(read: Read) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("../x.npy", b"")
    with pytest.raises(Invalid) as caught:
        read(file.getvalue())
    assert caught.value.slug == "corrupt-file"


def test_parquet_keeps_its_types(read: Read) -> None:
    times = pa.array([0, 86_400, None], pa.timestamp("s"))
    columns = read(parquet(n=[1, None, 3], digits=["1", "2", None], b=[True, None, False], when=times))
    assert kinds(columns) == {"n": "numeric", "digits": "categorical", "b": "boolean", "when": "numeric"}
    np.testing.assert_array_equal(columns.read("n"), [1, np.nan, 3])
    np.testing.assert_array_equal(columns.read("when"), [0, 86_400, np.nan])
    assert columns.read("b").tolist() == [1, -1, 0]


def test_parquet_is_counted_while_it_is_decoded(read: Read) -> None:
    with pytest.raises(TooLarge) as caught:
        read(parquet(a=["x" * 1000] * 20_000), limits=Limits(decoded_bytes=10**6))
    assert caught.value.slug == "decompressed-too-large"


def test_the_process_answers_like_the_function(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"a,y\n1,2\n3,4\n")
    description = ingest(tmp_path / "source", tmp_path, {"targets": ["y"]})
    assert description == Columns(tmp_path).description
    assert Description.model_validate(json.loads(json.dumps(description.dump()))) == description
    (tmp_path / "source").write_bytes(b"a,y\n1,2\n3\n")
    with pytest.raises(Invalid) as caught:
        ingest(tmp_path / "source", tmp_path)
    assert caught.value.slug == "ragged"


def test_a_process_that_dies_or_dawdles_is_a_corrupt_file(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(npz(x=np.zeros((1000, 200_000), dtype=np.uint8).T))
    for limits in (Limits(memory_bytes=200 * 2**20), Limits(seconds=0)):
        with pytest.raises(TemperError) as caught:
            ingest(tmp_path / "source", tmp_path, limits=limits)
        assert caught.value.slug == "corrupt-file"


def test_the_readers_answer_outlives_its_end(tmp_path: Path) -> None:
    """Whatever libraries do when the process ends: Arrow's threads now and then abort it."""
    (tmp_path / "source").write_bytes(b"a,b\n1,2\n3\n")
    aborting = "import atexit, os, runpy; atexit.register(os.abort); runpy.run_module('service.data.parse', run_name='__main__')"
    told = json.dumps({"source": str(tmp_path / "source"), "folder": str(tmp_path)}).encode()
    done = subprocess.run([sys.executable, "-c", aborting], input=told, capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert json.loads(done.stdout)["slug"] == "ragged"
    assert done.returncode == 0
