"""Random streams, each derived from (seed, member, purpose) and from nothing else."""

import hashlib


def derive(seed: int, member: int, purpose: str) -> int:
    """The 63-bit seed of one member's stream for one purpose, as `init`, `order`, `bootstrap` or `masks`.

    Streams are independent of each other and of how members are laid out over shards and processes.
    """
    text = f"{seed}/{member}/{purpose}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
