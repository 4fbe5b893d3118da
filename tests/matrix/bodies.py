"""Rows 27 to 50: JSON that is none, or is of the wrong kind, on every route that reads it."""

import time

from tests.matrix.table import CHECK, JOBS, MODELS, Answer, Bench, Row, posted

PREDICT, ATTACK = f"{MODELS}/{{plain}}/predict", f"{MODELS}/{{plain}}/attack"
READERS = (CHECK, JOBS, PREDICT, ATTACK)
DIGITS = b'"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}'


def quick(path: str, body: bytes, within_s: float) -> object:
    """The body's answer, which takes so long at most, or three times as long on a crowded machine: what is quadratic takes far longer."""

    def send(bench: Bench) -> Answer:
        began = time.monotonic()
        answer = posted(path, body)(bench)
        assert time.monotonic() - began < 3 * within_s
        return answer

    return send


# Number, what it is, the body, the status and the slug.
BODIES: list[tuple[int, str, bytes, int, str]] = [
    (27, "empty", b"", 400, "malformed-json"),
    (27, "white", b" \n", 400, "malformed-json"),
    (28, "truncated", b'{"dataset": "digits"', 400, "malformed-json"),
    (28, "truncated in a string", b'{"dataset": "dig', 400, "malformed-json"),
    (29, "not UTF-8", b'{"dataset": "\xff\xfe"}', 400, "malformed-json"),
    (29, "an overlong slash", b'{"dataset": "\xc0\xaf"}', 400, "malformed-json"),
    (29, "UTF-16", '{"dataset": 1}'.encode("utf-16"), 400, "malformed-json"),
    (30, "a byte order mark", b'\xef\xbb\xbf{"dataset": "digits"}', 400, "malformed-json"),
    (31, "NaN", b'{"seed": NaN}', 400, "malformed-json"),
    (31, "NaN within", b'{"inputs": [[NaN]]}', 400, "malformed-json"),
    (32, "Infinity", b'{"seed": Infinity}', 400, "malformed-json"),
    (32, "-Infinity", b'{"seed": -Infinity}', 400, "malformed-json"),
    (33, "1e999", b'{"seed": 1e999}', 422, "out-of-range"),
    (33, "-1e999 within", b'{"inputs": [[-1e999]]}', 422, "out-of-range"),
    (35, "33 deep", b"[" * 33 + b"]" * 33, 400, "json-too-deep"),
    (35, "objects", b'{"a":' * 400 + b"1" + b"}" * 400, 400, "json-too-deep"),
    (35, "100,000 deep", b"[" * 100_000, 400, "json-too-deep"),
    (36, "a key twice", b'{"seed": 1, "seed": 2}', 400, "duplicate-key"),
    (36, "a key twice within", b'{"labels": {"a": "1", "a": "1"}}', 400, "duplicate-key"),
    (36, "a key twice, written otherwise", b'{"seed": 1, "\\u0073eed": 2}', 400, "duplicate-key"),
    (38, "half a pair", b'{"name": "\\ud800"}', 400, "malformed-json"),
    (38, "a key that is half a pair", b'{"\\udfff": 1}', 400, "malformed-json"),
    (39, "NUL", b'{"name": "a\\u0000b"}', 422, "validation-error"),
    (40, "5,001 digits", b'{"seed": ' + b"1" * 5001 + b"}", 400, "malformed-json"),
    (45, "a list", b"[]", 422, "validation-error"),
    (45, "null", b"null", 422, "validation-error"),
    (45, "a number", b"7", 422, "validation-error"),
    (45, "a string", b'"digits"', 422, "validation-error"),
    (50, "two values", b"{} {}", 400, "malformed-json"),
    (50, "a comment", b"{} // more", 400, "malformed-json"),
    (50, "single quotes", b"{'seed': 1}", 400, "malformed-json"),
]
KINDS: list[tuple[int, str, bytes, str, str]] = [
    (34, CHECK, b'{%b, "epochs": "NaN"}', "validation-error", "/epochs"),
    (34, PREDICT, b'{"inputs": [["NaN"]], "level": "Infinity"}', "validation-error", "/level"),
    (37, CHECK, b'{%b, "epoch": 1}', "unknown-field", "/epoch"),
    (37, PREDICT, b'{"inputs": [[]], "sample": 3}', "unknown-field", "/sample"),
    (41, CHECK, b'{%b, "epochs": 1e25}', "validation-error", "/epochs"),
    (41, CHECK, b'{%b, "epochs": 10000000000000000000000000}', "value-out-of-range", "/epochs"),
    (42, CHECK, b'{%b, "epochs": 1.0e3}', "validation-error", "/epochs"),
    (42, PREDICT, b'{"inputs": [[]], "samples": 3.0}', "validation-error", "/samples"),
    (43, CHECK, b'{%b, "epochs": "12"}', "validation-error", "/epochs"),
    (44, CHECK, b'{%b, "epochs": true}', "validation-error", "/epochs"),
    (44, PREDICT, b'{"inputs": [[]], "members": true}', "unknown-choice", "/members"),
    (49, CHECK, b'{"dataset": "digits", "architecture": []}', "validation-error", "/architecture"),
    (49, ATTACK, b'{"inputs": [], "labels": [], "attack": []}', "validation-error", "/attack"),
]
BIG: list[Row] = [
    Row(46, "a spec's list of 500,000", quick(CHECK, b'{"dataset": "digits", "architecture": {"type": "mlp", "hidden": ['
        + b"8," * 499_999 + b"8]}}", 2), 422, "value-out-of-range", "/architecture/hidden"),
    Row(46, "a list of 1,000,000", quick(CHECK, b"[" + b"8," * 999_999 + b"8]", 2), 413, "payload-too-large"),
    Row(46, "1,000,000 rows", quick(PREDICT, b'{"inputs": [' + b"8," * 999_999 + b"8]}", 5), 413, "cost-limit"),
    Row(47, "100,000 wrong numbers", quick(CHECK, b'{%b, "split": {"test_rows": [' % DIGITS
        + b'"x",' * 99_999 + b'"x"]}}', 5), 422, "validation-error"),
    Row(47, "90,000 wrong rows", quick(PREDICT, b'{"inputs": [' + b"{}," * 89_999 + b"{}]}", 5), 422, "validation-error"),
    Row(47, "90,000 wrong labels", quick(CHECK, b'{%b, "labels": {' % DIGITS
        + b",".join(b'"%d": 1' % n for n in range(80_000)) + b"}}", 5), 422, "validation-error"),
    Row(48, "a key of 1 MiB", posted(CHECK, b'{"' + b"k" * 2**20 + b'": 1}'), 413, "payload-too-large"),
    Row(48, "a key of 900 KB", posted(CHECK, b'{"' + b"k" * 900_000 + b'": 1}'), 422, "validation-error"),
    Row(48, "a key of 1 MiB beside rows", posted(PREDICT, b'{"inputs": [[]], "' + b"k" * 2**20 + b'": 1}'), 422, "unknown-field"),
]  # fmt: skip
ROWS = [
    *(Row(number, f"{what} to {path}", posted(path, body), status, slug)
      for number, what, body, status, slug in BODIES for path in READERS),
    *(Row(number, path, posted(path, body.replace(b"%b", DIGITS)), 422, slug, pointer) for number, path, body, slug, pointer in KINDS),
    Row(37, "names the nearest", posted(CHECK, b'{"datset": "digits"}'), 422, "validation-error",
        also=lambda answer: "'dataset'" in str(answer.json["errors"])),
    *BIG,
]  # fmt: skip
