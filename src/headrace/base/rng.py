"""The only source of chance: seeded where a test asks, the system's own otherwise."""

from __future__ import annotations

import random
import secrets

Random = random.Random


def seeded(seed: int | str) -> Random:
    """A generator whose whole sequence follows from `seed`."""
    return Random(seed)


def fresh() -> Random:
    """A generator seeded by the system."""
    return Random(secrets.randbits(64))


def token(size: int = 16) -> bytes:
    """`size` unguessable bytes."""
    return secrets.token_bytes(size)


def token_hex(size: int = 16) -> str:
    """`size` unguessable bytes as lower-case hex."""
    return secrets.token_hex(size)
