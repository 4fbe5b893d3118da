"""Rows 5 to 26: what is wrong before a body is looked at."""

from tests.matrix.table import CHECK, DATASETS, JOBS, JSON, MODELS, Answer, Bench, Row, asked, sent

MIB = 2**20
HOST = b"Host: temper\r\n"
GET = b"GET /livez HTTP/1.1\r\n" + HOST
POST = b"POST /api/v1/jobs:validate HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
UPLOAD = b"POST /api/v1/datasets HTTP/1.1\r\n" + HOST + b"Content-Type: multipart/form-data; boundary=cut\r\n"
PREDICT = b"POST /api/v1/models/digits/predict HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
LISTS = (JOBS, DATASETS, MODELS, "/api/v1/catalog", f"{JOBS}/{{job}}", f"{MODELS}/{{plain}}", f"{MODELS}/{{plain}}/report")
BODIES = (("POST", JOBS), ("POST", CHECK), ("POST", f"{MODELS}/{{plain}}/predict"), ("POST", f"{MODELS}/{{plain}}/attack"),
          ("PUT", f"{MODELS}/plain/aliases/here"), ("POST", DATASETS))  # fmt: skip
FILE = f"{MODELS}/{{plain}}/files/model.safetensors"


def length(number: int) -> bytes:
    return b"Content-Length: %d\r\n" % number


def chunks(size: int) -> list[bytes]:
    return [b"10000\r\n" + b" " * 65536 + b"\r\n"] * (size // 65536)


def allow(*methods: str) -> object:
    return lambda answer: answer.headers["allow"].split(", ") == sorted(methods)


def _media(number: int, headers: dict[str, str]) -> list[Row]:
    return [
        Row(number, f"{method} {path}", asked(method, path, content=b"{}", headers=headers), 415, "unsupported-media-type")
        for method, path in BODIES
    ]


def _piece(bounds: str, expected: slice) -> Row:
    """A range that is there."""

    def same(bench: Bench) -> Answer:
        whole, piece = bench.ask("GET", FILE), bench.ask("GET", FILE, headers={"Range": bounds})
        assert piece.body == whole.body[expected]
        return piece

    return Row(26, bounds, same, 206, None)


ROUTING = [
    Row(5, "unknown route", asked("GET", "/api/v1/nothing"), 404, "not-found"),
    Row(5, "unknown below a route", asked("POST", f"{JOBS}/{{job}}/explode"), 404, "not-found"),
    Row(6, "PUT a list", asked("PUT", JOBS), 405, "method-not-allowed", also=allow("GET", "HEAD", "POST")),
    Row(6, "GET a check", asked("GET", CHECK), 405, "method-not-allowed", also=allow("POST")),
    Row(6, "DELETE health", asked("DELETE", "/livez"), 405, "method-not-allowed", also=allow("GET", "HEAD")),
    Row(6, "HEAD where there is a GET", asked("HEAD", "/livez"), 200, None, also=lambda answer: answer.body == b""),
    *(Row(7, path, asked("GET", path, headers={"Accept": "text/html"}), 406, "not-acceptable") for path in LISTS),
    Row(7, "JSON of weight 0", asked("GET", JOBS, headers={"Accept": "application/json;q=0"}), 406, "not-acceptable"),
    Row(7, "to a POST", asked("POST", CHECK, json={}, headers={"Accept": "image/png"}), 406, "not-acceptable"),
    *_media(8, {}),
    *_media(9, {"Content-Type": "text/plain"}),
    *_media(10, {"Content-Type": "application/json; charset=utf-16"}),
    *(row for row in _media(11, {**JSON, "Content-Encoding": "gzip"})),
]
SIZES = [
    Row(12, "spec", sent(POST + length(MIB + 1) + b"\r\n"), 413, "payload-too-large"),
    Row(12, "rows", sent(PREDICT + length(32 * MIB + 1) + b"\r\n"), 413, "payload-too-large"),
    Row(12, "upload", sent(UPLOAD + length(10**12) + b"\r\n"), 413, "payload-too-large"),
    Row(13, "spec", sent(POST + CHUNKED + b"\r\n", *chunks(2 * MIB)), 413, "payload-too-large"),
    Row(13, "rows", sent(PREDICT + CHUNKED + b"\r\n", *chunks(33 * MIB)), 413, "payload-too-large"),
    Row(14, "too small", sent(POST + length(5) + b'\r\n{"dataset": "digits"}'), 400, "bad-request"),
    Row(14, "negative", sent(POST + length(-5) + b"\r\n{}"), 400, "bad-request"),
    Row(14, "no number", sent(POST + b"Content-Length: 2x\r\n\r\n{}"), 400, "bad-request"),
    Row(18, "many fields", sent(GET + b"".join(b"A%d: b\r\n" % n for n in range(4000)) + b"\r\n"), 431, "header-too-large"),
    Row(18, "one of 17 KB", asked("GET", "/livez", headers={"A": "a" * 17_000}), 431, "header-too-large"),
    Row(18, "one of 200 KB", sent(GET + b"A: " + b"a" * 200_000 + b"\r\n\r\n"), 431, "header-too-large"),
    Row(18, "one without end", sent(GET + b"A: ", *[b"a" * 10_000] * 20), 431, "header-too-large"),
    Row(19, "path of 9 KB", asked("GET", "/" + "a" * 9000), 414, "uri-too-long"),
    Row(19, "query of 9 KB", asked("GET", f"{JOBS}?name=" + "a" * 9000), 414, "uri-too-long"),
    Row(19, "200 KB", sent(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"), 414, "uri-too-long"),
    Row(19, "without end", sent(b"GET /", *[b"a" * 10_000] * 20), 414, "uri-too-long"),
]
FRAMING = [
    Row(16, "length and chunks", sent(POST + length(4) + CHUNKED + b"\r\n0\r\n\r\n"), 400, "bad-request"),
    Row(16, "chunks and length", sent(POST + CHUNKED + length(4) + b"\r\n0\r\n\r\n"), 400, "bad-request"),
    Row(16, "both, before a large body", sent(POST + length(4) + CHUNKED + b"\r\n" + b" " * 60_000), 400, "bad-request"),
    Row(16, "another coding", sent(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 400, "bad-request"),
    Row(16, "a chunk's size is no number", sent(POST + CHUNKED + b"\r\nxy\r\n{}\r\n0\r\n\r\n"), 400, "bad-request"),
    Row(17, "two lengths", sent(POST + length(2) + length(3) + b"\r\n{} "), 400, "bad-request"),
    Row(17, "one length twice", sent(POST + length(2) + length(2) + b"\r\n{}"), 400, "bad-request"),
    Row(20, "HTTP/0.9", sent(b"GET /livez\r\n\r\n"), 400, "bad-request"),
    Row(20, "HTTP/3.0", sent(b"GET /livez HTTP/3.0\r\n" + HOST + b"\r\n"), 400, "bad-request"),
    Row(20, "TLS", sent(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400, "bad-request"),
    Row(20, "noise", sent(bytes(range(256))), 400, "bad-request"),
    Row(20, "no Host", sent(b"GET /livez HTTP/1.1\r\n\r\n"), 400, "bad-request"),
    Row(20, "two Hosts", sent(GET + HOST + b"\r\n"), 400, "bad-request"),
    Row(20, "a folded field", sent(GET + b"A: b\r\n c\r\n\r\n"), 400, "bad-request"),
    Row(20, "a space before the colon", sent(GET + b"A : b\r\n\r\n"), 400, "bad-request"),
    Row(20, "NUL in a field", sent(GET + b"A: \0\r\n\r\n"), 400, "bad-request"),
    Row(20, "an unknown method", sent(b"EXPLODE /livez HTTP/1.1\r\n" + HOST + b"\r\n"), 400, "bad-request"),
    Row(
        20,
        "a body for another protocol",
        sent(POST + b"Upgrade: h2c\r\nConnection: upgrade\r\n" + length(2) + b"\r\n{}"),
        400,
        "bad-request",
    ),
]
CONDITIONS = [
    Row(26, "stale If-Match", asked("GET", FILE, headers={"If-Match": '"0"'}), 412, "precondition-failed"),
    Row(26, "any If-Match", asked("HEAD", FILE, headers={"If-Match": "*"}), 200, None),
    Row(26, "past the end", asked("GET", FILE, headers={"Range": "bytes=99999999-"}), 416, "bad-range",
        also=lambda answer: answer.headers["content-range"].startswith("bytes */")),
    *(Row(26, bounds, asked("GET", FILE, headers={"Range": bounds}), 416, "bad-range")
      for bounds in ("bytes=9-3", "bytes=-0", "bytes=x-y", "bytes=-", "bytes=" + "9" * 30 + "-")),
    _piece("bytes=2-5", slice(2, 6)),
    _piece("bytes=-7", slice(-7, None)),
    _piece("bytes=100-", slice(100, None)),
    Row(26, "another unit", asked("GET", FILE, headers={"Range": "rows=1-2"}), 200, None),
]  # fmt: skip
# Each takes 10 seconds; they are sent at once.
SLOW = [
    Row(14, "too large", sent(POST + length(50) + b'\r\n{"dataset":'), 408, "request-timeout", on="slow"),
    Row(15, "a spec that stops", sent(POST + CHUNKED + b"\r\n2\r\n{}\r\n"), 408, "request-timeout", on="slow"),
    Row(15, "rows that never come", sent(PREDICT + length(2) + b"\r\n"), 408, "request-timeout", on="slow"),
    Row(15, "an upload that stops", sent(UPLOAD + length(2000) + b"\r\n--cut\r\n"), 408, "request-timeout", on="slow"),
    Row(15, "a head that stops", sent(GET + b"A: b"), 408, "request-timeout", on="slow"),
    Row(15, "nothing at all", sent(), 0, None, on="slow"),
]
ROWS = [*ROUTING, *SIZES, *FRAMING, *CONDITIONS, *SLOW]
