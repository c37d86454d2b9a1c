"""Completing a multipart upload: what must hold, and the object that comes of it. Runs inside a transaction."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headrace.base.errors import Invalid
from headrace.base.limits import OBJECT_BYTES_MAX, PART_BYTES_MIN, PART_NUMBER_MAX
from headrace.model.objects import ObjectInfo, PartInfo, Version
from headrace.origin.bodies import Piece
from headrace.origin.checksums import composite, full_object

_NONE: Mapping[str, str] = {}


class CompletePart(NamedTuple):
    """One part as the client names it; `etag` without quotes."""

    number: int
    etag: str
    checksums: Mapping[str, str] = _NONE


class StoredPart(NamedTuple):
    """One part as it lies in the store."""

    info: PartInfo
    pieces: Sequence[Piece]


def choose(wanted: Sequence[CompletePart], stored: Mapping[int, StoredPart]) -> list[StoredPart]:
    """The stored parts that the client names.

    Raises Invalid: MalformedXML (no parts), InvalidPartOrder, InvalidPart (missing, or another ETag or
    checksum), EntityTooSmall (under 5 MiB, but for the last), EntityTooLarge.
    """
    if not 1 <= len(wanted) <= PART_NUMBER_MAX:
        raise Invalid(f"a completed upload has 1 to {PART_NUMBER_MAX} parts, not {len(wanted)}", kind="MalformedXML")
    chosen: list[StoredPart] = []
    before = 0
    for part in itertools.starmap(CompletePart, wanted):
        if part.number <= before:
            raise Invalid("the parts must be in ascending order, each once", kind="InvalidPartOrder")
        before = part.number
        found = stored.get(part.number)
        if found is None or found.info.etag != part.etag.strip('"'):
            raise Invalid(
                f"part {part.number} was not uploaded, or with another ETag",
                kind="InvalidPart",
                details={"PartNumber": str(part.number), "ETag": part.etag},
            )
        for algorithm, value in part.checksums.items():
            if found.info.checksums.get(algorithm, value) != value:
                raise Invalid(f"part {part.number} has another {algorithm} checksum", kind="InvalidPart")
        chosen.append(found)
    for found in chosen[:-1]:
        if found.info.size < PART_BYTES_MIN:
            raise Invalid(
                f"part {found.info.number} has {found.info.size} bytes; all but the last need {PART_BYTES_MIN}",
                kind="EntityTooSmall",
                details={"PartNumber": str(found.info.number), "ProposedSize": str(found.info.size)},
            )
    if sum(found.info.size for found in chosen) > OBJECT_BYTES_MAX:
        raise Invalid("the object would be too large", kind="EntityTooLarge")
    return chosen


def multipart_etag(parts: Sequence[PartInfo]) -> str:
    """S3's ETag of a multipart object: MD5 of the parts' binary MD5s, and their number."""
    whole = hashlib.md5(usedforsecurity=False)
    for part in parts:
        whole.update(bytes.fromhex(part.etag))
    return f"{whole.hexdigest()}-{len(parts)}"


def object_checksums(algorithm: str, checksum_type: str, parts: Sequence[PartInfo]) -> dict[str, str]:
    """The object's checksum from those of its parts; empty when the upload asked for none.

    Raises Invalid when a part lacks its checksum.
    """
    if not algorithm:
        return {}
    values: list[str] = []
    for part in parts:
        value = part.checksums.get(algorithm)
        if value is None:
            raise Invalid(f"part {part.number} has no {algorithm} checksum", kind="InvalidPart")
        values.append(value)
    if checksum_type == "FULL_OBJECT":
        sizes = [part.size for part in parts]
        return {algorithm: full_object(algorithm, list(zip(values, sizes, strict=True)))}
    return {algorithm: composite(algorithm, values)}


def check_expected(found: ObjectInfo, expected: Mapping[str, str], expected_type: str, size: int | None) -> None:
    """Raise Invalid (BadDigest, InvalidRequest) unless the object is what the client says it completes."""
    said = found.attributes
    for algorithm, value in expected.items():
        if said.checksums.get(algorithm) != value:
            raise Invalid(
                f"the {algorithm} checksum given does not match the one of the uploaded parts", kind="BadDigest"
            )
    if expected_type and said.checksum_type and expected_type != said.checksum_type:
        raise Invalid(f"the upload's checksum type is {said.checksum_type}, not {expected_type}")
    if size is not None and size != found.size:
        raise Invalid(f"the parts have {found.size} bytes, {size} were announced")


def version_of(parts: Sequence[PartInfo], token: str) -> Version:
    """The version of the object that consists of `parts`; its date is set when it is stored."""
    return Version(multipart_etag(parts), 0, sum(part.size for part in parts), token)
