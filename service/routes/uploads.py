"""multipart/form-data as it arrives: the file goes to disk, the few text parts are kept."""

from collections.abc import Callable
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from service import json_text
from service.data.formats import Origin
from service.data.staging import Staged
from service.errors import Invalid, UnsupportedMediaType, invalid
from service.routes.reading import chunks

FILE = "file"
TEXTS = ("name", "schema", "labels", "sha256")
MOST_PARTS = 8
MOST_TEXT_BYTES = 64 * 1024
MOST_HEADER_BYTES = 8 * 1024
OVERHEAD_BYTES = 2**20
"""What a body may hold besides the file."""
BUFFER_BYTES = 1 << 20


class Form:
    """The parts of one upload, fed piece by piece; raises Invalid `bad-multipart` for what does not belong."""

    def __init__(self, boundary: bytes, staged: Staged) -> None:
        self.staged, self.origin = staged, Origin()
        self.texts: dict[str, bytearray] = {}
        self._names: list[str] = []
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        self._write: Callable[[bytes], None] = staged.write
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._name_header,
                "on_header_value": self._fill_header,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin,
                "on_part_data": self._take,
                "on_end": self._end,
            },
            max_header_size=MOST_HEADER_BYTES,
        )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _bad("the body is not multipart/form-data") from error

    def finish(self) -> None:
        """Judge the whole: closed by its boundary, with one file, and that the one that was sent."""
        if not self._ended:
            raise _bad("the body ends before its last boundary")
        if FILE not in self._names:
            raise _bad("there is no part 'file'")
        wanted = self.text("sha256")
        if wanted is not None and wanted.strip().lower() != self.staged.sha256:
            raise invalid("/sha256", "digest-mismatch", f"the file that came has the SHA-256 {self.staged.sha256}")

    def text(self, name: str) -> str | None:
        """A text part, or None where it was not sent."""
        if name not in self.texts:
            return None
        try:
            return self.texts[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _bad(f"the part {name!r} is not UTF-8") from error

    def value(self, name: str) -> Any:
        """A JSON part, None where it was not sent or is empty; raises MalformedJSON."""
        text = self.text(name)
        return json_text.read(text.encode()) if text and text.strip() else None

    def _name_header(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _fill_header(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._write(data[start:end])

    def _end_header(self) -> None:
        self._headers[bytes(self._field).strip().lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _begin(self) -> None:
        disposition, parameters = parse_options_header(self._headers.get(b"content-disposition"))
        name = parameters.get(b"name", b"").decode("utf-8", "replace")
        if disposition != b"form-data" or name not in (FILE, *TEXTS):
            raise _bad(f"there is no part {name[:80]!r}; there are file, {', '.join(TEXTS)}")
        if name in self._names or len(self._names) >= MOST_PARTS:
            raise _bad(f"the part {name!r} was sent twice")
        self._names.append(name)
        if name == FILE:
            filename = parameters.get(b"filename", b"").decode("utf-8", "replace")
            self.origin = Origin(filename=filename, media_type=self._headers.get(b"content-type", b"").decode("latin-1"))
            self._write = self.staged.write
            return
        kept = self.texts.setdefault(name, bytearray())

        def keep(data: bytes) -> None:
            if len(kept) + len(data) > MOST_TEXT_BYTES:
                raise _bad(f"the part {name!r} is larger than {MOST_TEXT_BYTES} bytes")
            kept.extend(data)

        self._write = keep

    def _end(self) -> None:
        self._ended = True


async def receive(request: Request, staged: Staged, limit: int) -> Form:
    """The form of an upload whose file is at most `limit` bytes, received into `staged` off the event loop."""
    content_type, parameters = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        raise UnsupportedMediaType("A dataset is sent as multipart/form-data.")
    if not parameters.get(b"boundary"):
        raise _bad("the media type names no boundary")
    try:
        form = Form(parameters[b"boundary"], staged)
    except FormParserError as error:
        raise _bad("the boundary is too long") from error
    waiting, size = [], 0
    async for chunk in chunks(request, limit + OVERHEAD_BYTES):
        waiting.append(chunk)
        size += len(chunk)
        if size >= BUFFER_BYTES:
            await run_in_threadpool(form.feed, b"".join(waiting))
            waiting, size = [], 0
    await run_in_threadpool(form.feed, b"".join(waiting))
    form.finish()
    return form


def _bad(message: str) -> Invalid:
    return invalid("", "bad-multipart", message)
