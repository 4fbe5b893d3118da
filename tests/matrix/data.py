"""Rows 79 to 91: files that are ragged, lie about themselves, or mean harm."""

import hashlib
import io
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.lib.format as npy
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.matrix.table import CHECK, DATASETS, MLP, Answer, Bench, Row, asked, upload

GOOD = b"a,b,y\n1,x,0\n2,y,1\n3,x,0\n"
BAD_DATA, CORRUPT, BOMB = "invalid-data", "corrupt-file", "decompressed-too-large"


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def archive(members: dict[str, bytes | zipfile.ZipInfo], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP of these members; a `ZipInfo` in place of content makes one of that kind."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(name if isinstance(content, bytes) else content, content if isinstance(content, bytes) else b"/etc/passwd")
    return file.getvalue()


def picture(kind: str = "PNG", *, size: tuple[int, int] = (6, 5), mode: str = "L") -> bytes:
    """A noisy image file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    (Image.fromarray(pixels) if mode == "L" else Image.new(mode, size)).save(file, kind)
    return file.getvalue()


def animation() -> bytes:
    """A PNG of two frames."""
    file = io.BytesIO()
    Image.new("L", (6, 5)).save(file, "PNG", save_all=True, append_images=[Image.new("L", (6, 5), 9)])
    return file.getvalue()


def linked(name: str) -> zipfile.ZipInfo:
    """A member that is a link."""
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member


def array(values: Any) -> bytes:
    """An .npy file."""
    file = io.BytesIO()
    npy.write_array(file, np.asarray(values))
    return file.getvalue()


def header(shape: str, descr: str = "<f8") -> bytes:
    """An .npy file whose header says so, with 16 bytes after it."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + bytes(16)


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def bad(number: int, what: str, content: bytes, slug: str, *, status: int = 422, pointer: str | None = None, **parts: str) -> Row:
    """An upload that is refused."""
    return Row(number, what, upload(content, **parts), status, slug, pointer)


def encrypted(content: bytes) -> bytes:
    """An archive with the flag of encryption on its members, in both of its headers."""
    return content.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    )


def trained(content: bytes, **spec: Any) -> Any:
    """A file that is taken, and the answer to a job on it."""

    def send(bench: Bench) -> Answer:
        made = upload(content)(bench)
        assert made.status == 201, made
        return bench.ask("POST", CHECK, json={"dataset": made.json["id"], "architecture": MLP, **spec})

    return send


def kept(content: bytes, rows: list[dict[str, Any]]) -> Any:
    """A file that is taken, and its rows as they come back."""

    def send(bench: Bench) -> Answer:
        made = upload(content)(bench)
        assert made.status == 201, made
        answer = bench.ask("GET", f"{DATASETS}/{made.json['id']}/rows")
        assert [item["values"] for item in answer.json["items"]] == rows
        return answer

    return send


class Harmful:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return __import__("os").system, ("touch /tmp/temper-was-here",)


LINK = zipfile.ZipInfo("x.npy")
LINK.external_attr = 0o120777 << 16
TWO = array(np.zeros((4, 2)))
TABLES = [
    bad(79, "a long row", b"a,b\n1,2\n3,4,5\n", "ragged"),
    Row(79, "a short row", upload(b"a,b\n1,2\n3,4\n5\n"), 422, "ragged", also=lambda answer: "row 2" in answer.json["detail"]),
    Row(80, "text in a numeric column", upload(b"a,y\n1,2\nx,3\n", schema='{"fields": {"a": {"kind": "numeric"}}}'), 422, BAD_DATA,
        also=lambda answer: "row 1, column 'a'" in answer.json["detail"]),
    *(bad(81, cell, b"a,y\n1,2\n%b,3\n" % cell.encode(), "non-finite") for cell in ("inf", "-inf", "Infinity", "1e999")),
    bad(81, "NaN in x", npz(x=np.array([[1.0], [np.nan]]), y=np.zeros(2)), "non-finite"),
    bad(81, "infinity in x", npz(x=np.array([[1.0], [np.inf]]), y=np.zeros(2)), "non-finite"),
    bad(81, "beyond float32", npz(x=np.array([[1.0], [1e300]]), y=np.zeros(2)), "non-finite"),
    bad(81, "infinity in Parquet", parquet(a=[1.0, float("inf")], y=[1, 2]), "non-finite"),
    bad(82, "a boolean of three values", b"a,y\n1,0\n2,1\n3,2\n", BAD_DATA, schema='{"fields": {"y": {"kind": "boolean"}}}'),
    Row(82, "labels with fractions are no classes", trained(b"a,y\n" + b"1,0.5\n2,0.25\n3,1.5\n" * 9, targets=[{"name": "y"}]), 200, None,
        also=lambda answer: answer.json["spec"]["targets"][0]["task"] == "regression"),
    Row(82, "one class", trained(b"a,y\n" + b"1,x\n2,x\n" * 9), 422, BAD_DATA, "/targets/0/name"),
    bad(83, "lengths differ", npz(x=np.zeros((3, 2)), y=np.zeros(2)), BAD_DATA),
    bad(83, "y is one number", npz(x=np.zeros((3, 2)), y=np.float64(1)), BAD_DATA),
    bad(84, "no row", b"a,b\n", BAD_DATA),
    bad(84, "one row", b"a,b\n1,2\n", BAD_DATA),
    bad(84, "nothing", b"", BAD_DATA),
    bad(84, "no row in x", npz(x=np.zeros((0, 2)), y=np.zeros(0)), BAD_DATA),
    bad(84, "one row in x", npz(x=np.zeros((1, 2)), y=np.zeros(1)), BAD_DATA),
    bad(84, "no row in Parquet", parquet(a=pa.array([], pa.float64()), y=pa.array([], pa.float64())), BAD_DATA),
    Row(85, "constant", trained(b"a,b,y\n" + b"1,5,2\n2,5,3\n" * 9, targets=[{"name": "y"}]), 200, None,
        also=lambda answer: [w["code"] for w in answer.json["warnings"]] == ["constant-feature"]),
    Row(89, "formulas", kept(b'a,y\n=1+1,1\n"@SUM(A1)",2\n-2+3,3\n', [
        {"a": "=1+1", "y": 1.0}, {"a": "@SUM(A1)", "y": 2.0}, {"a": "-2+3", "y": 3.0}]), 200, None),
]  # fmt: skip
ARRAYS = [
    bad(86, "objects", archive({"x.npy": array(np.array([{}, {}], dtype=object))}), "forbidden-pickle"),
    bad(86, "an object that runs a command", archive({"x.npy": array(np.array([Harmful(), Harmful()], dtype=object))}), "forbidden-pickle"),
    bad(86, "a pickle", pickle.dumps(Harmful()), "unsupported-media-type", status=415),
    bad(86, "a pickle as an array", archive({"x.npy": pickle.dumps(Harmful())}), "corrupt-array"),
    bad(87, "more rows than there are", archive({"x.npy": TWO.replace(b"(4, 2)", b"(9, 2)")}), "corrupt-array"),
    bad(87, "fewer rows than there are", archive({"x.npy": TWO.replace(b"(4, 2)", b"(3, 2)")}), "corrupt-array"),
    bad(87, "7 TiB", archive({"x.npy": header("(1000000000000,)")}), "corrupt-array"),
    bad(87, "a shape beyond 64 bits", archive({"x.npy": header("(18446744073709551617, 2)")}), "corrupt-array"),
    bad(87, "a negative shape", archive({"x.npy": header("(-2, -1)")}), "corrupt-array"),
    bad(87, "a shape of text", archive({"x.npy": header("('a',)")}), "corrupt-array"),
    bad(87, "code for a shape", archive({"x.npy": header("__import__('os').system('true')")}), "corrupt-array"),
    bad(87, "a header without end", archive({"x.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{"}), "corrupt-array"),
    bad(87, "text for an array", archive({"x.npy": b"1,2,3\n"}), "corrupt-array"),
    bad(87, "complex numbers", npz(x=np.zeros((3, 2), dtype=complex)), BAD_DATA),
    bad(87, "named fields", npz(x=np.zeros(3, dtype=[("a", "f8")])), BAD_DATA),
    bad(88, "a bomb", npz(x=np.zeros((2, 20_000_000)), y=np.zeros(2)), BOMB, status=413),
    bad(88, "a path upwards", archive({"../x.npy": TWO}), CORRUPT),
    bad(88, "an absolute path", archive({"/x.npy": TWO}), CORRUPT),
    bad(88, "a drive", archive({"c:\\x.npy": TWO}), CORRUPT),
    bad(88, "a name with a newline", archive({"x\n.npy": TWO}), CORRUPT),
    bad(88, "a link", archive({"x.npy": LINK}), CORRUPT),
    bad(88, "encrypted", encrypted(archive({"x.npy": TWO})), CORRUPT),
    bad(88, "another compression", archive({"x.npy": TWO}, method=zipfile.ZIP_BZIP2), CORRUPT),
    bad(88, "65 arrays", archive({f"x{n}.npy": TWO for n in range(65)}), BAD_DATA),
    bad(88, "truncated", archive({"x.npy": TWO})[:-30], CORRUPT),
    bad(88, "only a beginning", b"PK\x03\x04" + bytes(100), CORRUPT),
    bad(88, "a flipped byte", archive({"x.npy": TWO}).replace(bytes(64), bytes(63) + b"\x01", 1), CORRUPT),
]  # fmt: skip
PNG, JPEG = picture(), picture("JPEG")
BOMBED = PNG[:16] + struct.pack(">II", 12_000, 12_000) + PNG[24:29] + struct.pack(">I", zlib.crc32(b"IHDR" + struct.pack(
    ">II", 12_000, 12_000) + PNG[24:29])) + PNG[33:]  # fmt: skip
IMAGES = [
    Row(88, "images", upload(archive({"cat/1.png": PNG, "dog/2.jpeg": JPEG, "__MACOSX/._1": b"", "cat/.DS_Store": b""})), 201, None,
        also=lambda answer: [each["kind"] for each in answer.json["fields"]] == ["image", "categorical"]),
    bad(88, "an image upwards", archive({"cat/1.png": PNG, "../2.png": PNG}), CORRUPT),
    bad(88, "an image's drive", archive({"cat/1.png": PNG, "c:/x/2.png": PNG}), CORRUPT),
    bad(88, "an image behind a slash", archive({"cat/1.png": PNG, "dog\\2.png": PNG}), CORRUPT),
    bad(88, "a linked image", archive({"cat/1.png": PNG, "dog/2.png": linked("dog/2.png")}), CORRUPT),
    bad(88, "encrypted images", encrypted(archive({"cat/1.png": PNG, "dog/2.png": PNG})), CORRUPT),
    bad(88, "an image without a class", archive({"1.png": PNG, "2.png": PNG}), BAD_DATA),
    bad(88, "an image too deep", archive({"a/b/c/1.png": PNG, "d/b/c/2.png": PNG}), BAD_DATA),
    bad(88, "some images in parts", archive({"train/cat/1.png": PNG, "dog/2.png": PNG}), BAD_DATA),
    bad(88, "no image to train on", archive({"test/cat/1.png": PNG, "test/dog/2.png": PNG}), BAD_DATA),
    bad(88, "an archive among images", archive({"cat/1.png": PNG, "dog/2.zip": b"PK"}), BAD_DATA),
    bad(88, "one image", archive({"cat/1.png": PNG}), BAD_DATA),
    bad(88, "images of two sizes", archive({"cat/1.png": PNG, "dog/2.png": picture(size=(4, 4))}), BAD_DATA),
    bad(88, "an image of 144 megapixels", archive({"cat/1.png": PNG, "dog/2.png": BOMBED}), BOMB, status=413),
    bad(88, "half a JPEG", archive({"cat/1.png": PNG, "dog/2.jpg": JPEG[: len(JPEG) * 3 // 4]}), CORRUPT),
    bad(88, "half a PNG", archive({"cat/1.png": PNG, "dog/2.png": PNG[:-30]}), CORRUPT),
    bad(88, "a GIF by another name", archive({"cat/1.png": PNG, "dog/2.png": picture("GIF")}), CORRUPT),
    bad(88, "16 bits a channel", archive({"cat/1.png": PNG, "dog/2.png": picture(mode="I;16")}), BAD_DATA),
    bad(88, "an animation", archive({"cat/1.png": PNG, "dog/2.png": animation()}), BAD_DATA),
    Row(88, "images called CSV", upload(archive({"cat/1.png": PNG, "dog/2.png": PNG}), "data.csv"), 415, "unsupported-media-type"),
]  # fmt: skip
WORDS = b"x" * 990
PARQUET = parquet(a=[1, 2, 3] * 100, y=[1, 2, 3] * 100)
FILES = [
    bad(88, "Parquet without its foot", PARQUET[:-8], CORRUPT),
    bad(88, "Parquet without its middle", PARQUET[:100] + PARQUET[-400:], CORRUPT),
    bad(88, "Parquet of nothing", b"PAR1" * 3, CORRUPT),
    bad(80, "nested columns", parquet(a=[[1], [2]], y=[1, 2]), BAD_DATA),
    *(bad(80, what, content, "unsupported-media-type", status=415) for what, content in {
        "gzip": b"\x1f\x8b\x08\x00" + bytes(99), "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99), "PNG": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "Latin-1": "a,b\né,1\n".encode("latin-1"), "NUL": b"a,b\n1,\0\n", "a tar": b"x.csv".ljust(512, b"\0"),
        "UTF-16": "a,b\n1,2\n".encode("utf-16")}.items()),
    Row(80, "CSV by another name", upload(GOOD, "data.parquet"), 415, "unsupported-media-type"),
    bad(80, "an open quote", b'a,b\n1,2\n3,4\n5,"6\n7,8\n', CORRUPT),
    Row(80, "a quote within a cell", kept(b'a,y\n5" pipe,1\n7,2\n', [{"a": '5" pipe', "y": 1.0}, {"a": "7", "y": 2.0}]), 200, None),
    bad(80, "a row of 9 MB", b"a,b\n1," + b"x" * 9_000_000 + b"\n2,y\n", "payload-too-large", status=413),
    Row(80, "a cell of 2,000 characters", upload(b"a,b\n1," + b"x" * 2000 + b"\n2,y\n"), 201, None,
        also=lambda answer: [each["kind"] for each in answer.json["fields"]] == ["numeric", "ignore"]),
    bad(80, "a declared one", b"a,b\n1," + b"x" * 2000 + b"\n2,y\n", BAD_DATA, schema='{"fields": {"b": {"kind": "categorical"}}}'),
    bad(80, "20 MB of categories", b"a,b\n" + b"".join(b"%b%d,%b%d\n" % (WORDS, n, WORDS, n) for n in range(10_000)),
        "payload-too-large", status=413),
    bad(80, "20,000 columns", b",".join(b"c%d" % n for n in range(20_000)) + b"\n", "payload-too-large", status=413),
    bad(80, "a name twice", b"a,a\n1,2\n3,4\n", BAD_DATA),
    bad(80, "no name", b"a,\n1,2\n3,4\n", BAD_DATA),
    bad(91, "another digest", GOOD, "digest-mismatch", pointer="/sha256", sha256=hashlib.sha256(b"").hexdigest()),
    bad(91, "no digest", GOOD, "digest-mismatch", pointer="/sha256", sha256="abc"),
    Row(91, "its digest", upload(GOOD, sha256=hashlib.sha256(GOOD).hexdigest().upper()), 201, None),
]  # fmt: skip


def form(*parts: tuple[str, str, bytes], end: bytes = b"--cut--\r\n", media_type: str = "multipart/form-data; boundary=cut") -> Any:
    """A form written by hand: name, other parameters of the disposition, content."""
    body = b"".join(
        b'--cut\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), more.encode(), content)
        for name, more, content in parts
    )
    return asked("POST", DATASETS, content=body + end, headers={"Content-Type": media_type})


FILE, NAME = ("file", '; filename="a.csv"', GOOD), ("name", "", b"matrix")
FORMS = [
    Row(84, what, send, 422, "bad-multipart") for what, send in {
        "no file": form(NAME), "two files": form(FILE, FILE, NAME), "two names": form(FILE, NAME, NAME),
        "unknown part": form(FILE, NAME, ("x", "", b"1")),
        "no end": form(FILE, NAME, end=b""), "nothing": form(end=b""), "no boundary": form(FILE, media_type="multipart/form-data"),
        "another boundary": form(FILE, NAME, media_type="multipart/form-data; boundary=other"),
        "an endless boundary": form(FILE, NAME, media_type="multipart/form-data; boundary=" + "a" * 9000),
        "a name of 100 KB": form(FILE, ("name", "", b"a" * 100_000)), "a head of 9 KB": form(("file", f'; x="{"a" * 9000}"', GOOD), NAME),
        "a name that is no text": form(FILE, ("name", "", b"\xff")), "no name of the part": form(("", "", GOOD), NAME)}.items()
]  # fmt: skip
FORMS += [
    Row(84, "a file named upwards", form(("file", '; filename="../../etc/passwd"', GOOD), NAME), 201, None),
    Row(84, "a name upwards", form(FILE, ("name", "", b"../up")), 422, "invalid-name", "/name"),
    Row(84, "no name", form(FILE), 422, "validation-error", "/name"),
    Row(84, "a schema that is no JSON", form(FILE, NAME, ("schema", "", b"{")), 400, "malformed-json"),
    Row(84, "a schema of another kind", form(FILE, NAME, ("schema", "", b"[]")), 422, "validation-error", "/schema"),
    Row(84, "a schema of an unknown field", form(FILE, NAME, ("schema", "", b'{"target": []}')), 422, "unknown-field", "/schema/target"),
    Row(84, "a schema of an unknown column", form(FILE, NAME, ("schema", "", b'{"targets": ["z"]}')), 422, BAD_DATA, "/schema/targets/0"),
    Row(84, "labels of another kind", form(FILE, NAME, ("labels", "", b"[1]")), 422, "validation-error", "/labels"),
]  # fmt: skip
ROWS = [*TABLES, *ARRAYS, *IMAGES, *FILES, *FORMS]
