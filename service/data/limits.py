"""Bounds on what an upload may hold and on what reading it may cost."""

from service.values import Value

GIB = 2**30


class Limits(Value):
    """Most of everything that one file may have, and the reader's time and memory."""

    rows: int = 100_000_000
    audited_rows: int = 20_000_000
    """Most rows among which repeated ones are looked for."""
    columns: int = 10_000
    classes: int = 10_000
    """Distinct values of a categorical column; one with more is ignored unless it was declared categorical."""
    cell_characters: int = 1_000
    """Of a category; a column with a longer one is ignored like one with too many."""
    description_bytes: int = 16 * 2**20
    """Of all that is told of a dataset: names, statistics, categories."""
    line_bytes: int = 4 * 2**20
    thrift_bytes: int = 16 * 2**20
    thrift_items: int = 1_000_000
    members: int = 64
    """Arrays in an NPZ."""
    ratio: float = 100.0
    """Decoded over compressed bytes of one archive member, judged above `ratio_from_bytes` decoded ones."""
    ratio_from_bytes: int = 16 * 2**20
    images: int = 5_000_000
    """Members of an archive of images."""
    image_bytes: int = 64 * 2**20
    """Of one file."""
    image_pixels: int = 2**24
    """Of one image."""
    image_block_bytes: int = 16 * 2**20
    """Pixels that are held before they are written."""
    decoded_bytes: int = 16 * GIB
    memory_bytes: int = 3 * GIB
    seconds: int = 1_800
