"""Which format a file has: its content decides, and a name or media type of another format is refused."""

import codecs
import zipfile
from pathlib import Path, PurePath

from service.data.fields import Format
from service.errors import UnsupportedMediaType
from service.values import Value

EXTENSIONS: dict[str, Format] = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".npz": "npz", ".zip": "images"}
MEDIA_TYPES: dict[str, tuple[Format, ...]] = {
    "text/csv": ("csv",),
    "application/csv": ("csv",),
    "application/vnd.apache.parquet": ("parquet",),
    "application/x-parquet": ("parquet",),
    "application/x-npz": ("npz",),
    "application/zip": ("npz", "images"),
    "application/x-zip-compressed": ("npz", "images"),
    "image/png": (),
    "image/jpeg": (),
    "application/json": (),
    "application/pdf": (),
    "application/gzip": (),
    "application/x-hdf5": (),
}
SNIFFED = 1 << 16
MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"PK\x03\x04": "npz", b"PK\x05\x06": "npz"}


class Origin(Value):
    """What the sender says of a file: its name and its media type, both possibly empty."""

    filename: str = ""
    media_type: str = ""


def detect(path: Path, origin: Origin) -> Format:
    """The format of the content; raises UnsupportedMediaType for unknown content and for an origin that contradicts it."""
    extension = EXTENSIONS.get(PurePath(origin.filename.lower()).suffix)
    found = _content(path) or ("images" if extension == "images" else "npz")
    if extension is not None and extension != found:
        raise UnsupportedMediaType(f"The file's name says {extension}, its content is {found}.")
    media_type = origin.media_type.partition(";")[0].strip().lower()
    if found not in MEDIA_TYPES.get(media_type, (found,)):
        raise UnsupportedMediaType(f"The media type {media_type} contradicts the file's content, which is {found}.")
    return found


def _content(path: Path) -> Format | None:
    """What the content says; None of an archive that does not tell which of two it is."""
    with path.open("rb") as file:
        start = file.read(SNIFFED)
    magic = MAGIC.get(start[:4], "csv")
    if magic == "npz":
        return _archive(path)
    if magic == "csv":
        _check_text(start)
    return magic


def _archive(path: Path) -> Format | None:
    """`npz` where every member is an array, else `images`; None of what is empty or no archive, which is left to a reader to refuse."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [member.filename for member in archive.infolist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if not names:
        return None
    return "npz" if all(name.endswith(".npy") for name in names) else "images"


def _check_text(start: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        # A character may be cut at the end of what was read.
        text = decoder.decode(start, final=len(start) < SNIFFED)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UnsupportedMediaType("The file is neither text in UTF-8 nor of another format that is read here.")
