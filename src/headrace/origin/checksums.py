"""The five flexible checksums of S3, for parts and for the objects made of them.

CRCs come from awscrt, which also combines the CRCs of neighbours without reading their bytes.
Values travel as base64 of the big-endian digest, as in the x-amz-checksum-* headers.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Any

from awscrt import checksums as crt

from headrace.base.errors import Invalid

_CRC: dict[str, tuple[Callable[[bytes, int], int], Callable[[int, int, int], int], int]] = {
    "crc32": (crt.crc32, crt.combine_crc32, 4),
    "crc32c": (crt.crc32c, crt.combine_crc32c, 4),
    "crc64nvme": (crt.crc64nvme, crt.combine_crc64nvme, 8),
}
_SHA: dict[str, Callable[[], Any]] = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
ALGORITHMS = (*_CRC, *_SHA)
"""Names as they stand in `Attributes.checksums`."""


class Checksum:
    """A running checksum of one algorithm. Raises Invalid for an unknown name."""

    __slots__ = ("_crc", "_sha", "_update", "algorithm")

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._crc = 0
        self._sha: Any = None
        self._update: Callable[[bytes, int], int] | None = None
        if algorithm in _CRC:
            self._update = _CRC[algorithm][0]
        elif algorithm in _SHA:
            self._sha = _SHA[algorithm]()
        else:
            raise Invalid(f"no such checksum algorithm: {algorithm}", kind="InvalidRequest")

    def update(self, piece: bytes) -> None:
        """Take in the next bytes."""
        if self._update is None:
            self._sha.update(piece)
        else:
            self._crc = self._update(piece, self._crc)

    def digest(self) -> bytes:
        """The checksum so far, big-endian."""
        if self._update is None:
            result: bytes = self._sha.digest()
            return result
        return self._crc.to_bytes(_CRC[self.algorithm][2], "big")

    def value(self) -> str:
        """The checksum so far in base64."""
        return b64encode(self.digest()).decode()


def _decoded(algorithm: str, value: str) -> bytes:
    size = _CRC[algorithm][2] if algorithm in _CRC else _SHA[algorithm]().digest_size
    try:
        digest = b64decode(value, validate=True)
    except ValueError as error:
        raise Invalid(f"the {algorithm} checksum is not base64", kind="InvalidRequest") from error
    if len(digest) != size:
        raise Invalid(f"the {algorithm} checksum has {len(digest)} bytes, not {size}", kind="InvalidRequest")
    return digest


def composite(algorithm: str, values: Sequence[str]) -> str:
    """Checksum of the parts' concatenated checksums, with `-<number of parts>`."""
    whole = Checksum(algorithm)
    for value in values:
        whole.update(_decoded(algorithm, value))
    return f"{whole.value()}-{len(values)}"


def full_object(algorithm: str, parts: Sequence[tuple[str, int]]) -> str:
    """CRC of the whole from the (value, size in bytes) of its parts.

    Raises Invalid for SHA-1 and SHA-256, which cannot be combined.
    """
    if algorithm not in _CRC:
        raise Invalid(f"{algorithm} has no full-object form for multipart uploads", kind="InvalidRequest")
    _, combine, width = _CRC[algorithm]
    total = 0
    for value, size in parts:
        total = combine(total, int.from_bytes(_decoded(algorithm, value), "big"), size)
    return b64encode(total.to_bytes(width, "big")).decode()


def default_type(algorithm: str) -> str:
    """The checksum type S3 assumes for an upload that names only the algorithm."""
    return "FULL_OBJECT" if algorithm == "crc64nvme" else "COMPOSITE"
