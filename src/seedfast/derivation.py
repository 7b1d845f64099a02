"""The keys of named purposes, without PyTorch: a process that only splits and tokenises data starts without it."""

import hashlib
from functools import lru_cache


@lru_cache(maxsize=4096, typed=True)
def derive(seed: int, *path: str | int) -> int:
    """The 64-bit key (as a signed integer) of a named purpose: the BLAKE2b hash of the seed and the path."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
