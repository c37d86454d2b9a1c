"""Copying bytes that lie on this machine into a body of the store: links where most of a file is wanted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from headrace.base.errors import Damaged
from headrace.base.limits import STORE_READ_BYTES_MAX
from headrace.model.objects import Extent
from headrace.origin.bodies import EMPTY_MD5, Bodies, BodyWriter, Piece
from headrace.origin.checksums import Checksum
from headrace.origin.store_objects import link_all, remove_all


class Copied(NamedTuple):
    """Durable bodies and what is known of their bytes: MD5 in hex, checksums in base64."""

    pieces: list[Piece]
    size: int
    md5: str
    checksums: dict[str, str]


def _read(extents: Sequence[Extent]) -> Iterator[bytes]:
    """The bytes of the extents. Raises FileNotFoundError, Damaged (a file is too short)."""
    for extent in extents:
        descriptor = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < extent.length:
                piece = os.pread(descriptor, min(STORE_READ_BYTES_MAX, extent.length - done), extent.offset + done)
                if not piece:
                    raise Damaged(f"{extent.path} is shorter than recorded")
                done += len(piece)
                yield piece
        finally:
            os.close(descriptor)


def _as_piece(bodies: Bodies, extent: Extent) -> Piece | None:
    """The extent as a piece worth linking: a body of this store of which at least half is wanted."""
    name = extent.path.rpartition("/")[2]
    if bodies.path(name) != extent.path or extent.length * 2 < Path(extent.path).stat().st_size:
        return None
    return Piece(name, extent.offset, extent.length)


def copy_extents(bodies: Bodies, extents: Sequence[Extent], algorithms: Sequence[str]) -> Copied:
    """Durable bodies with the bytes of `extents`; blocks.

    Linking keeps the whole file alive, so a small slice of a large one is copied instead.
    Raises FileNotFoundError (the source is gone), Damaged, Unavailable.
    """
    candidates = [_as_piece(bodies, extent) for extent in extents]
    pieces = [piece for piece in candidates if piece is not None]
    if pieces and len(pieces) == len(extents):
        return _linked(bodies, pieces, algorithms)
    if not extents:
        return Copied([], 0, EMPTY_MD5, {algorithm: Checksum(algorithm).value() for algorithm in algorithms})
    writer = BodyWriter(bodies, algorithms)
    try:
        for block in _read(extents):
            writer.write([block])
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    return Copied([writer.piece], writer.size, writer.md5, writer.checksums)


def _linked(bodies: Bodies, pieces: Sequence[Piece], algorithms: Sequence[str]) -> Copied:
    linked = link_all(bodies, pieces)
    md5 = hashlib.md5(usedforsecurity=False)
    checksums = [Checksum(algorithm) for algorithm in algorithms]
    try:
        for block in _read([Extent(bodies.path(piece.name), piece.offset, piece.length) for piece in linked]):
            md5.update(block)
            for checksum in checksums:
                checksum.update(block)
    except BaseException:
        remove_all(bodies, linked)
        raise
    size = sum(piece.length for piece in linked)
    return Copied(linked, size, md5.hexdigest(), {checksum.algorithm: checksum.value() for checksum in checksums})
