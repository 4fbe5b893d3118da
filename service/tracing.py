"""W3C Trace Context: the caller's trace goes on in the log lines of the API and of the workers."""

import re

# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags; later versions may add fields.
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


def accepted(given: list[str]) -> str | None:
    """The header's value where there is one and it is well formed; what is not is ignored, as the standard has it."""
    found = TRACEPARENT.fullmatch(given[0]) if len(given) == 1 and len(given[0]) <= 256 else None
    return None if found is None or (found[1] == "00" and found[3]) else found[0]


def told(traceparent: str | None) -> dict[str, str]:
    """What a log line says of it: `trace_id`, or nothing."""
    return {} if traceparent is None else {"trace_id": traceparent.split("-")[1]}
