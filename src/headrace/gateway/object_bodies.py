"""Request bodies on their way to an origin, and what answers say of their checksums."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any

from headrace.base.errors import Bug, Invalid
from headrace.base.limits import PUT_BYTES_MAX
from headrace.gateway.messages import Request
from headrace.gateway.payload import Payload
from headrace.model.objects import NO_ATTRIBUTES, Attributes, ObjectInfo
from headrace.origin.base import Upload
from headrace.origin.checksums import ALGORITHMS, Checksum


def payload_of(request: Request) -> Payload:
    """The request's decoded, verified body. Raises Bug when the request was built without one."""
    if not isinstance(request.body, Payload):
        raise Bug("a request reached an object operation without its body")
    return request.body


def check_length(request: Request) -> None:
    """Raise Invalid unless a body of that length may be stored: MissingContentLength, EntityTooLarge.

    A body in HTTP's chunked coding needs no announced length.
    """
    if request.content_length is None:
        if "chunked" not in (request.header("transfer-encoding") or "").lower():
            raise Invalid("You must provide the Content-Length HTTP header.", kind="MissingContentLength")
    elif request.content_length > PUT_BYTES_MAX:
        raise Invalid(
            "Your proposed upload exceeds the maximum allowed size",
            kind="EntityTooLarge",
            details={"ProposedSize": str(request.content_length), "MaxSizeAllowed": str(PUT_BYTES_MAX)},
        )


def upload_of(request: Request, attributes: Attributes = NO_ATTRIBUTES) -> Upload:
    """The request's body as an upload; its checksums join `attributes` when the body is exhausted."""
    payload = payload_of(request)
    upload = Upload(body=_nothing(), size=request.content_length, attributes=attributes, md5=payload.md5)
    upload.body = _finishing(payload, payload, upload)
    return upload


async def _finishing(body: AsyncIterator[bytes], payload: Payload, upload: Upload) -> AsyncIterator[bytes]:
    async for piece in body:
        yield piece
    if payload.checksums:
        upload.attributes = dataclasses.replace(
            upload.attributes, checksums=dict(payload.checksums), checksum_type="FULL_OBJECT"
        )


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def computing_upload(body: AsyncIterator[bytes], size: int, attributes: Attributes, algorithm: str) -> Upload:
    """An upload of `body` whose attributes get a freshly computed checksum; "" keeps those they have."""
    upload = Upload(body=body, size=size, attributes=attributes)
    if algorithm:
        upload.body = _computing(body, upload, Checksum(algorithm))
    return upload


async def _computing(body: AsyncIterator[bytes], upload: Upload, checksum: Checksum) -> AsyncIterator[bytes]:
    async for piece in body:
        checksum.update(piece)
        yield piece
    upload.attributes = dataclasses.replace(
        upload.attributes, checksums={checksum.algorithm: checksum.value()}, checksum_type="FULL_OBJECT"
    )


def asked_algorithm(name: str | None) -> str:
    """A checksum algorithm as headers name it, in headrace's spelling; "" when none.

    Raises Invalid (InvalidRequest) for one that is not known.
    """
    algorithm = (name or "").lower()
    if algorithm and algorithm not in ALGORITHMS:
        raise Invalid(
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: "
            f"[{', '.join(known.upper() for known in ALGORITHMS)}]",
            kind="InvalidRequest",
        )
    return algorithm


def checksum_members(checksums: Mapping[str, str], checksum_type: str = "") -> dict[str, Any]:
    """Checksums as the service model's output members: ChecksumCRC32, ..., ChecksumType."""
    members: dict[str, Any] = {f"Checksum{algorithm.upper()}": value for algorithm, value in checksums.items()}
    if members and checksum_type:
        members["ChecksumType"] = checksum_type
    return members


def given_checksums(members: Mapping[str, Any]) -> dict[str, str]:
    """The checksums among parsed input members: the inverse of `checksum_members`."""
    named = ((algorithm, members.get(f"Checksum{algorithm.upper()}")) for algorithm in ALGORITHMS)
    return {algorithm: str(value) for algorithm, value in named if value}


def stored_members(info: ObjectInfo) -> dict[str, Any]:
    """What the answer to a write says of the stored object: ETag and checksums."""
    said = info.attributes
    return {"ETag": f'"{info.etag}"', **checksum_members(said.checksums, said.checksum_type)}
