"""Draw the pictures of the tricks' pages: python -m benchmarks.pictures [topic ...] [--check]

`--check` writes nothing and exits 1 where a stored picture is not the one that would be drawn; that holds on the machine
and with the versions that drew it.
"""

import argparse
import sys
import time

from benchmarks.pictures.gallery import PICTURES, drawn, path_of, topics


def main(words: list[str]) -> int:
    """Draw or check the topics that are named, or all."""
    reader = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description="The pictures of the tricks' pages.")
    reader.add_argument("topics", nargs="*", metavar="topic", help=f"of {', '.join(topics())}; all where none is named")
    reader.add_argument("--check", action="store_true", help="only say whether the stored pictures are those that would be drawn")
    asked = reader.parse_args(words)
    chosen = [topic.replace("-", "_") for topic in asked.topics] or topics()
    unknown = [topic for topic in chosen if topic not in topics()]
    if unknown:
        reader.error(f"no picture {', '.join(unknown)}; there are {', '.join(topics())}")
    PICTURES.mkdir(exist_ok=True)
    told_of = [told(topic, write=not asked.check) for topic in chosen]
    return 0 if all(told_of) else 1


def told(topic: str, *, write: bool) -> bool:
    """Print what becomes of a picture; False where it is to stay as it is and would be another."""
    begun, path = time.perf_counter(), path_of(topic)
    content = drawn(topic)
    same = path.is_file() and path.read_bytes() == content
    if write and not same:
        path.write_bytes(content)
    what = "as it was" if same else "written" if write else "DIFFERS"
    print(f"{path.name:28s} {len(content) / 1000:6.1f} kB   {time.perf_counter() - begun:5.1f} s   {what}", flush=True)
    return same or write


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
