"""Sizes and durations as people write them: `64GiB`, `512 MB`, `30s`."""

from __future__ import annotations

import re

from headrace.base.errors import Invalid

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGTP]?)(I?)B?\s*", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def parse_bytes(text: str) -> int:
    """Bytes meant by `text`: `64GiB` and `64G` are powers of 1024, `64GB` of 1000. Raises Invalid."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Invalid(
            f"{text!r} is not a size; write a number and a unit such as 512MiB, 64GiB or 2TB.", kind="InvalidArgument"
        )
    number, unit, binary = match.groups()
    decimal = bool(unit) and not binary and text.strip().upper().endswith("B")
    return int(float(number) * (1000 if decimal else 1024) ** _POWERS[unit.upper()])


def format_bytes(size_bytes: float) -> str:
    """`size_bytes` in the largest binary unit that keeps it at 1 or more."""
    size = float(size_bytes)
    unit = 0
    while abs(size) >= 1024 and unit < len(_BINARY_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_BINARY_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_BINARY_UNITS[unit]}"
