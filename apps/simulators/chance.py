"""Chance that falls the same way every time: drawn from a key, never from a generator's state.

So a repeated request, a restarted process and tomorrow's demo all see the same delays and the same late parcels.
"""

import hashlib
from datetime import timedelta


def fraction(seed: int, key: str, what: str) -> float:
    """A number in [0, 1) for the draw named ``what`` about ``key``."""
    digest = hashlib.blake2b(f"{seed}|{what}|{key}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def between(low: timedelta, high: timedelta, drawn: float) -> timedelta:
    """``low`` for 0, towards ``high`` for 1, in whole seconds."""
    return timedelta(seconds=round((low + (high - low) * drawn).total_seconds()))
