"""What a GET or HEAD of an object asks for, read once from its headers and parameters. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.base.errors import Invalid, NotFound
from headrace.base.limits import PART_NUMBER_MAX
from headrace.gateway.conditions import request_conditions
from headrace.gateway.messages import Request
from headrace.gateway.ranges import ByteRange, Span, parse_range, resolve_range
from headrace.model.objects import Conditions, ObjectInfo, PartInfo

_OVERRIDES = {
    "response-cache-control": "cache-control",
    "response-content-disposition": "content-disposition",
    "response-content-encoding": "content-encoding",
    "response-content-language": "content-language",
    "response-content-type": "content-type",
    "response-expires": "expires",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A read as asked for. At most one of `byte_range` and `part_number` is set."""

    conditions: Conditions
    byte_range: ByteRange | None = None
    part_number: int | None = None
    checksum_mode: bool = False
    overrides: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the object is sent: all of it (`partial` False), a range, or a part."""

    span: Span
    partial: bool = False
    part: PartInfo | None = None
    parts_count: int = 0


def check_version(version_id: str | None) -> None:
    """Raise NotFound (NoSuchVersion) for any version but the null one, the only one objects have here."""
    if version_id not in (None, "null"):
        raise NotFound(
            "The specified version does not exist.", kind="NoSuchVersion", details={"VersionId": version_id or ""}
        )


def read_request(request: Request) -> ReadRequest:
    """Parse a GetObject or HeadObject.

    Raises Invalid: InvalidArgument, InvalidPart (a part number out of bounds), InvalidRequest (part
    number together with a range, overrides by an anonymous caller); NotFound (NoSuchVersion).
    """
    params = request.params
    check_version(params.get("versionId"))
    part_number = parse_part_number(params["partNumber"]) if "partNumber" in params else None
    range_header = request.header("range")
    if part_number is not None and range_header is not None:
        raise Invalid("Cannot specify both Range header and partNumber query parameter", kind="InvalidRequest")
    return ReadRequest(
        conditions=request_conditions(request),
        byte_range=parse_range(range_header),
        part_number=part_number,
        checksum_mode=(request.header("x-amz-checksum-mode") or "").upper() == "ENABLED",
        overrides=_overrides(params, request.identity.access_key),
    )


def parse_part_number(text: str) -> int:
    """A part number. Raises Invalid (InvalidArgument)."""
    if text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= PART_NUMBER_MAX:
        return int(text)
    raise Invalid(
        f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive",
        kind="InvalidArgument",
        details={"ArgumentName": "partNumber", "ArgumentValue": text[:100]},
    )


def _overrides(params: Mapping[str, str], access_key: str) -> dict[str, str]:
    found = {_OVERRIDES[name]: value for name, value in params.items() if name in _OVERRIDES}
    if found and not access_key:
        raise Invalid(
            "Request specific response headers cannot be used for anonymous GET requests.", kind="InvalidRequest"
        )
    for name, value in found.items():
        if _CONTROL.search(value):
            raise Invalid(
                "A response header holds no control characters",
                kind="InvalidArgument",
                details={"ArgumentName": f"response-{name}"},
            )
    return found


def select(wanted: ReadRequest, info: ObjectInfo) -> Selection:
    """What of `info` is to be sent. Raises Invalid (InvalidRange, InvalidPart)."""
    if wanted.part_number is not None:
        return _select_part(wanted.part_number, info)
    if wanted.byte_range is not None:
        return Selection(resolve_range(wanted.byte_range, info.size), partial=True)
    return Selection(Span(0, info.size))


def _select_part(number: int, info: ObjectInfo) -> Selection:
    """A part by its number; an object stored whole is its own part 1."""
    if not info.parts and number == 1:
        return Selection(Span(0, info.size), partial=info.size > 0)
    start = 0
    for part in info.parts:
        if part.number == number:
            return Selection(Span(start, part.size), part.size > 0, part, len(info.parts))
        start += part.size
    raise Invalid(
        "The requested part number does not exist in the object",
        kind="InvalidPart",
        details={"PartNumber": str(number), "ActualPartCount": str(max(1, len(info.parts)))},
    )
