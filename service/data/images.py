"""ZIP of class folders of PNG and JPEG, optionally below `train/` and `test/`: images become uint8 rows, folders their label.

Members are opened one by one and never unpacked to a disk; whatever may be a bomb is refused on the directory or on an image's
own header, before a pixel is decoded.
"""

import math
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from service.data import parts
from service.data.building import TextColumn
from service.data.columns import ColumnFile, Values, column_path
from service.data.fields import Field
from service.data.limits import Limits
from service.data.measures import statistics
from service.data.pictures import BROKEN, GREY, decode, opened
from service.data.schema import Schema
from service.errors import Invalid, TooLarge, invalid
from service.flaws import cut

SUFFIXES = (".png", ".jpg", ".jpeg")
_DRIVE = re.compile(r"^[A-Za-z]:")


class Picture(NamedTuple):
    """A member of the archive that is an image: its part (None without parts) and its class."""

    member: zipfile.ZipInfo
    part: str | None
    label: str


class Layout(NamedTuple):
    """What all images have in common: height, width, and whether they have colours."""

    height: int
    width: int
    colour: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W] of grey images, [H, W, 3] of coloured ones."""
        return (self.height, self.width, 3) if self.colour else (self.height, self.width)


def read_archive(path: Path, folder: Path, schema: Schema, limits: Limits) -> tuple[list[Field], int, dict[str, int] | None]:
    """Write the images and labels below the folder; fields `image` and `label`, rows, and rows per part.

    Rows go by part, class and name. Raises Invalid and TooLarge.
    """
    schema.check(("image", "label"))
    with _opened(path) as archive:
        pictures = sorted(_pictures(archive, limits), key=lambda each: (_order(each.part), each.label, each.member.filename))
        _check_parts(pictures)
        layout = _layout(archive, pictures, limits)
        image = _write_images(archive, pictures, layout, column_path(folder, 0), limits)
    labels = TextColumn("label", column_path(folder, 1), limits, declared="categorical")
    labels.append(pa.array([picture.label for picture in pictures], pa.string()))
    codes = np.array([_order(picture.part) for picture in pictures], dtype=np.int8)
    return [image, labels.finish()], len(pictures), parts.write(folder, codes) if pictures[0].part is not None else None


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except BROKEN as error:
        raise invalid("/file", "corrupt-file", "the file cannot be read as an archive") from error


def _pictures(archive: zipfile.ZipFile, limits: Limits) -> list[Picture]:
    """The images that the directory names; raises for members that have no place in such an archive, and for bombs."""
    members = archive.infolist()
    if len(members) > limits.images:
        raise TooLarge(f"The archive holds {len(members)} members; the limit is {limits.images}.", slug="decompressed-too-large")
    if sum(member.file_size for member in members) > limits.decoded_bytes:
        raise TooLarge(f"The members are larger than {limits.decoded_bytes} bytes.", slug="decompressed-too-large")
    kept = [member for member in members if not member.is_dir() and not _clutter(member.filename)]
    for member in kept:
        _check_member(member, limits)
    if len({member.filename for member in kept}) < len(kept):
        raise invalid("/file", "corrupt-file", "the archive holds two members of one name")
    if len(kept) < 2:
        raise invalid("/file", "invalid-data", f"the archive holds {len(kept)} images; it takes at least 2")
    paths = [PurePosixPath(member.filename).parts for member in kept]
    if all(len(path) > 2 and path[0] == paths[0][0] for path in paths) and paths[0][0].lower() not in parts.NAMES:
        paths = [path[1:] for path in paths]  # one folder around everything
    return [_picture(member, path) for member, path in zip(kept, paths, strict=True)]


def _picture(member: zipfile.ZipInfo, path: Sequence[str]) -> Picture:
    if len(path) == 2:
        return Picture(member, None, path[0])
    if len(path) == 3 and path[0].lower() in parts.NAMES:
        return Picture(member, path[0].lower(), path[1])
    shown = cut(repr(member.filename), 80)
    raise invalid("/file", "invalid-data", f"{shown} is not CLASS/IMAGE, perhaps below train/, validation/ or test/")


def _clutter(name: str) -> bool:
    """What file managers leave in archives."""
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")


def _check_member(member: zipfile.ZipInfo, limits: Limits) -> None:
    name = member.filename
    strange = name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts or _DRIVE.match(name) or not name.isprintable()
    linked = stat.S_ISLNK(member.external_attr >> 16)
    if strange or linked or member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise invalid("/file", "corrupt-file", "the archive holds a member that is no plain file with a plain name")
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        raise invalid("/file", "invalid-data", f"{cut(repr(name), 80)} is neither PNG nor JPEG")
    if member.file_size > limits.image_bytes:
        message = f"{cut(repr(name), 80)} has {member.file_size} bytes; the limit is {limits.image_bytes}."
        raise TooLarge(message, slug="decompressed-too-large")


def _check_parts(pictures: Sequence[Picture]) -> None:
    with_part = sum(picture.part is not None for picture in pictures)
    if 0 < with_part < len(pictures):
        raise invalid("/file", "invalid-data", "some class folders are below train/ or test/ and others are not")


def _order(part: str | None) -> int:
    return parts.NAMES[part] if part is not None else 0


def _layout(archive: zipfile.ZipFile, pictures: Sequence[Picture], limits: Limits) -> Layout:
    """What the images' own headers say, which costs no decoding; raises where their sizes differ or there are too many pixels."""
    size, colour = (0, 0), False
    for picture in pictures:
        with _named(picture), archive.open(picture.member) as file, opened(file, most_pixels=limits.image_pixels) as image:
            found, colour = image.size, colour or image.mode not in GREY
        size = found if size == (0, 0) else size
        if found != size:
            shown = cut(repr(picture.member.filename), 80)
            message = f"{shown} has {found[0]} x {found[1]} pixels, others {size[0]} x {size[1]}; all images have one size"
            raise invalid("/file", "invalid-data", message)
    layout = Layout(size[1], size[0], colour)
    if len(pictures) * math.prod(layout.shape) > limits.decoded_bytes:
        raise TooLarge(f"The images' pixels take more than {limits.decoded_bytes} bytes.", slug="decompressed-too-large")
    return layout


@contextmanager
def _named(picture: Picture) -> Iterator[None]:
    """What is wrong with a member is said with its name."""
    shown = cut(repr(picture.member.filename), 80)
    try:
        yield
    except Invalid as error:
        flaw = error.flaws[0]
        raise invalid("/file", flaw.code, f"{shown}: {flaw.message}") from error
    except BROKEN as error:
        raise invalid("/file", "corrupt-file", f"{shown} cannot be read") from error


def _write_images(archive: zipfile.ZipFile, pictures: Sequence[Picture], layout: Layout, path: Path, limits: Limits) -> Field:
    file = ColumnFile(path, np.uint8, layout.shape)
    step = max(1, limits.image_block_bytes // math.prod(layout.shape))
    for start in range(0, len(pictures), step):
        block = pictures[start : start + step]
        file.append(np.stack([_decoded(archive, picture, layout, limits) for picture in block]))
    field = Field(name="image", kind="image", shape=layout.shape, dtype="uint8")
    return field.model_copy(update=statistics(file.close()))


def _decoded(archive: zipfile.ZipFile, picture: Picture, layout: Layout, limits: Limits) -> Values:
    with _named(picture):
        return decode(archive.read(picture.member), channels=3 if layout.colour else None, most_pixels=limits.image_pixels)
