"""GetObject and HeadObject: the general path, for everything the hot path leaves.

Bodies on this machine are sent from their files in place; those of remote origins come through the
cache's reader. Conditions are judged, the range cut and the headers built by the same pure functions
for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from headrace.base.errors import Conflict, Unavailable
from headrace.base.limits import SLICE_BYTES_MAX
from headrace.gateway.conditions import Verdict, judge_read
from headrace.gateway.files import ChangingPieces, FilePieces
from headrace.gateway.messages import Request, Response
from headrace.gateway.object_headers import Header, not_modified_headers, object_headers
from headrace.gateway.object_requests import ReadRequest, Selection, read_request, select
from headrace.gateway.ranges import content_range
from headrace.gateway.remote_read import head_remote, open_remote
from headrace.gateway.targets import FILE
from headrace.media.residency import resident
from headrace.model.objects import ObjectInfo
from headrace.origin.base import Located
from headrace.origin.local import cut

if TYPE_CHECKING:
    from headrace.gateway.context import BucketTarget, Context

_LOCATE_TRIES = 8


async def get_object(context: Context, request: Request, params: dict[str, Any]) -> Response:  # noqa: ARG001 - one signature
    """Answer a GetObject."""
    wanted = read_request(request)
    target = context.resolve(request.bucket)
    if target.origin.local:
        return await _get_local(context, target, request.key, wanted)
    return await _get_remote(context, target, request.key, wanted)


async def head_object(context: Context, request: Request, params: dict[str, Any]) -> Response:  # noqa: ARG001 - one signature
    """Answer a HeadObject; one of `Range: bytes=0-0` on a cached bucket also stages the object."""
    wanted = read_request(request)
    target = context.resolve(request.bucket)
    extra: list[Header] = []
    source = ""
    if target.origin.local:
        info = await target.origin.head(request.key)
    else:
        info, source, extra = await head_remote(context, target, request.key, wanted)
    early = _judge(wanted, info, extra)
    if early is not None:
        return early
    selection = select(wanted, info)
    response = _answer(wanted, info, selection, extra, source)
    response.headers.append(("Content-Length", str(selection.span.length)))
    return response


def _judge(wanted: ReadRequest, info: ObjectInfo, extra: Sequence[Header]) -> Response | None:
    """A 304 answer when the conditions ask for one, None to go on. Raises Conflict (PreconditionFailed)."""
    if judge_read(wanted.conditions, info) is Verdict.NOT_MODIFIED:
        return Response(304, [*not_modified_headers(info), *extra], length=0)
    return None


def _answer(
    wanted: ReadRequest, info: ObjectInfo, selection: Selection, extra: Sequence[Header], source: str
) -> Response:
    """Status and headers of a 200 or 206 answer; the body is the caller's."""
    whole = not selection.partial or selection.part is not None
    headers = object_headers(
        info,
        checksum_mode=wanted.checksum_mode and whole,
        part=selection.part,
        parts_count=selection.parts_count,
        overrides=wanted.overrides,
    )
    headers += extra
    if source:
        headers.append(("x-headrace-source", source))
    if selection.partial:
        headers.append(("Content-Range", content_range(selection.span, info.size)))
    return Response(206 if selection.partial else 200, headers, length=selection.span.length, source=source)


async def _get_local(context: Context, target: BucketTarget, key: str, wanted: ReadRequest) -> Response:
    """Send files in place; looked up again when the object was replaced before its files were open."""
    for _ in range(_LOCATE_TRIES):
        located = await target.origin.locate(key)
        early = _judge(wanted, located.info, ())
        if early is not None:
            return early
        selection = select(wanted, located.info)
        try:
            pieces = _open_pieces(context, target, located, selection)
        except FileNotFoundError:
            continue
        source = _source_of(pieces, selection)
        response = _answer(wanted, located.info, selection, (), source)
        response.body = pieces if selection.span.length else b""
        return response
    raise Unavailable(f"the files of {key!r} vanish faster than they can be opened; is something else removing them?")


def _open_pieces(
    context: Context, target: BucketTarget, located: Located, selection: Selection
) -> FilePieces | ChangingPieces:
    span = selection.span
    extents = cut(located.extents, span.start, span.start + span.length)
    if target.kind == FILE and extents:
        return ChangingPieces(context.files, extents[0], located.info.version.token)
    return FilePieces(context.files, extents, located.info.version.token)


def _source_of(pieces: FilePieces | ChangingPieces, selection: Selection) -> str:
    """Where the first slice lies: "memory" or "device"; "memory" when there is nothing to send."""
    first = pieces.first
    if first is None or not selection.span.length:
        return "memory"
    return "memory" if resident(first.descriptor, first.offset, min(first.length, SLICE_BYTES_MAX)) else "device"


async def _get_remote(context: Context, target: BucketTarget, key: str, wanted: ReadRequest) -> Response:
    try:
        opened = await open_remote(context, target, key, wanted)
    except Conflict as problem:
        if problem.kind != "NotModified" or "ETag" in problem.details:
            raise
        # The origin did not say what it is that has not changed, and an answer must.
        info, _, extra = await head_remote(context, target, key, wanted)
        early = _judge(wanted, info, extra)
        if early is not None:
            return early
        opened = await open_remote(context, target, key, wanted)
    try:
        early = _judge(wanted, opened.info, opened.headers)
        selection = select(wanted, opened.info)
    except BaseException:
        await opened.close()
        raise
    if early is not None:
        await opened.close()
        return early
    response = _answer(wanted, opened.info, selection, opened.headers, opened.source)
    response.body = opened.pieces
    return response
