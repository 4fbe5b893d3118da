"""Archives of class folders as columns, and images as text in requests."""

import base64
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.data.columns import Columns
from service.data.encoding import ArrayInput, Encoding
from service.data.formats import Origin
from service.data.limits import Limits
from service.data.parse import Request, parse
from service.errors import Invalid, TooLarge
from service.inference.rows import read_rows

Pixels = NDArray[np.uint8]
Read = Callable[..., Columns]
STREAM = np.random.default_rng(0)


def noise(*shape: int) -> Pixels:
    return STREAM.integers(0, 256, shape, dtype=np.uint8)


def png(pixels: Pixels, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(members: Mapping[str, bytes], schema: Any = None, limits: Limits | None = None) -> Columns:
        with zipfile.ZipFile(tmp_path / "source", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        parse(Request(source=str(tmp_path / "source"), folder=str(tmp_path), declared=schema, limits=limits or Limits()))
        return Columns(tmp_path)

    return read


def test_folders_are_classes_and_pixels_stay_what_they_are(read: Read) -> None:
    pixels = {"b/2.png": noise(5, 4), "a/1.png": noise(5, 4), "b/1.png": noise(5, 4)}
    columns = read({name: png(each) for name, each in pixels.items()})
    description = columns.description
    assert (description.format, description.rows, description.targets, description.guessed) == ("images", 3, ("label",), False)
    image, label = description.fields
    assert (image.kind, image.shape, image.dtype, label.values) == ("image", (5, 4), "uint8", ("a", "b"))
    assert description.inputs(("label",)) == (image,)
    np.testing.assert_array_equal(columns.read("image"), [pixels["a/1.png"], pixels["b/1.png"], pixels["b/2.png"]])
    assert columns.read("label").tolist() == [0, 1, 1]
    assert (image.min, image.max) == (columns.read("image").min(), columns.read("image").max())


def test_one_coloured_image_makes_all_of_them_coloured(read: Read) -> None:
    grey, colour = noise(3, 3), noise(3, 3, 3)
    columns = read({"a/1.png": png(grey), "a/2.png": png(colour)})
    assert columns.description.fields[0].shape == (3, 3, 3)
    np.testing.assert_array_equal(columns.read("image"), [np.stack([grey] * 3, axis=-1), colour])


def test_what_is_transparent_lies_on_black(read: Read) -> None:
    clear = np.full((2, 2, 4), 200, dtype=np.uint8)
    clear[0, :, 3], clear[1, :, 3] = 0, 255
    columns = read({"a/1.png": png(clear), "a/2.png": png(clear)})
    assert columns.read("image")[0, :, :, 0].tolist() == [[0, 0], [200, 200]]


@pytest.mark.parametrize("around", ["", "pets-1.0/"])
def test_folders_of_parts_are_the_datasets_splits(read: Read, around: str) -> None:
    names = ["test/b/1.png", "train/a/1.png", "train/b/1.png", "val/a/9.png", "train/a/2.png"]
    columns = read({around + name: png(noise(2, 2)) for name in names})
    assert columns.description.splits == {"train": 3, "validation": 1, "test": 1}
    parts = columns.parts()
    assert parts is not None
    assert parts.tolist() == [0, 0, 0, 1, 2]
    assert columns.read("label").tolist() == [0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("limits", "slug"),
    [
        (Limits(images=1), "decompressed-too-large"),
        (Limits(image_bytes=20), "decompressed-too-large"),
        (Limits(image_pixels=19), "decompressed-too-large"),
        (Limits(decoded_bytes=30), "decompressed-too-large"),
    ],
)
def test_caps(read: Read, limits: Limits, slug: str) -> None:
    with pytest.raises(TooLarge) as refusal:
        read({"a/1.png": png(noise(5, 4)), "b/2.png": png(noise(5, 4))}, limits=limits)
    assert refusal.value.slug == slug


def test_a_refusal_names_the_image(read: Read) -> None:
    with pytest.raises(Invalid, match=r"b/2\.png"):
        read({"a/1.png": png(noise(5, 4)), "b/2.png": png(noise(5, 4))[:-25]})


def encoding(shape: tuple[int, ...], dtype: str = "uint8", kind: Any = "image") -> Encoding:
    return Encoding(inputs=(ArrayInput(kind=kind, name="image", shape=shape, dtype=dtype, low=0, high=255),))


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (5, 4, 4)])
def test_an_image_as_text_is_the_array_that_it_holds(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    content = png(pixels[..., 0] if shape[-1] == 1 else pixels)
    rows = [text(content), {"image": f"data:image/png;base64,{text(content)}"}, pixels.tolist()]
    np.testing.assert_array_equal(read_rows(rows, encoding(shape), most=10), np.stack([pixels] * 3).astype(np.float32))


def test_base64_may_be_wrapped_as_tools_print_it() -> None:
    """RFC 2045: lines of at most 76 characters, with either line end."""
    pixels = noise(20, 30)
    wrapped = base64.encodebytes(png(pixels)).decode()
    assert "\n" in wrapped.strip()
    rows = [wrapped, wrapped.replace("\n", "\r\n")]
    np.testing.assert_array_equal(read_rows(rows, encoding((20, 30)), most=10), np.stack([pixels] * 2).astype(np.float32))


@pytest.mark.parametrize(
    ("row", "at", "pointer", "code"),
    [
        (text(png(noise(4, 5))), encoding((5, 4)), "/inputs/1", "shape-mismatch"),
        (text(png(noise(500, 400))), encoding((5, 4)), "/inputs/1", "shape-mismatch"),
        ({"image": text(png(noise(5, 4))[:-30])}, encoding((5, 4)), "/inputs/1/image", "corrupt-file"),
        ("%%%", encoding((5, 4)), "/inputs/1", "corrupt-file"),
        ("", encoding((5, 4)), "/inputs/1", "corrupt-file"),
        (text(b"GIF89a"), encoding((5, 4)), "/inputs/1", "corrupt-file"),
        (text(png(noise(5, 4))), encoding((5, 4), "float32"), "/inputs/1", "wrong-type"),
        (text(png(noise(5, 4))), encoding((5, 4), "uint8", "tensor"), "/inputs/1", "wrong-type"),
    ],
)
def test_images_that_are_none(row: Any, at: Encoding, pointer: str, code: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read_rows([np.zeros((5, 4)).tolist(), row], at, most=10)
    assert [(flaw.pointer, flaw.code) for flaw in refusal.value.flaws] == [(pointer, code)]


@pytest.mark.parametrize("content", ["empty", "cut short"])
@pytest.mark.parametrize(("filename", "words"), [("photos.zip", "archive"), ("rows.npz", "archive")])
def test_an_archive_that_says_nothing_is_what_its_name_says(tmp_path: Path, content: str, filename: str, words: str) -> None:
    """It is a broken file, and no contradiction between a name and a content that nobody can read."""
    with zipfile.ZipFile(tmp_path / "source", "w") as archive:
        if content == "cut short":
            archive.writestr("a/1.png", png(noise(3, 3)))
    if content == "cut short":
        (tmp_path / "source").write_bytes((tmp_path / "source").read_bytes()[:-30])
    with pytest.raises(Invalid) as refused:
        parse(Request(source=str(tmp_path / "source"), folder=str(tmp_path), origin=Origin(filename=filename)))
    assert [flaw.pointer for flaw in refused.value.flaws] == ["/file"]
    assert words in refused.value.detail


@pytest.mark.parametrize(("value", "words"), [(None, "not null"), (True, "not true"), ("a", 'not "a"')])
def test_entries_that_are_no_numbers_are_shown_as_they_were_sent(value: Any, words: str) -> None:
    rows = [[[1, 2], [3, value]]]
    encoding = Encoding(inputs=(ArrayInput(name="image", kind="image", shape=(2, 2), dtype="uint8", low=0.0, high=255.0),))
    with pytest.raises(Invalid) as refused:
        read_rows(rows, encoding, most=10)
    (flaw,) = refused.value.flaws
    assert (flaw.pointer, flaw.code) == ("/inputs/0/1/1", "wrong-type")
    assert words in flaw.message
