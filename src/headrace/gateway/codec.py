"""Requests into parameters and outputs into answers, by S3's service model.

    name = operation_of(request.method, bool(request.bucket), bool(request.key), request.params, request.headers)
    params = parse(name, request, body)          # {"Bucket": ..., "Key": ..., "Delete": {"Objects": [...]}}
    response = render(name, {"ETag": '"..."'})   # status, headers and document by the model

Member names are the model's (as in boto3). Times come in as seconds since 1970 and go out from
seconds or datetimes. Streaming bodies are left in `request.body`. Everything is compiled once per
operation into closures, so a small answer costs a few microseconds. Header values are read as
UTF-8, else as Latin-1; answers are sent as UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from botocore.model import MapShape, Shape, StructureShape

from headrace.base.errors import Invalid
from headrace.gateway.messages import Request, Response
from headrace.gateway.model import Operation, operation_of, operations
from headrace.gateway.times import parse_time
from headrace.gateway.xml_reader import malformed, read_document, reader_of
from headrace.gateway.xml_writer import DECLARATION, NAMESPACE, escape, members_writer, scalar_text

__all__ = ["accepts_document", "operation_of", "parse", "render", "render_error_document", "streams_body"]

Value = Any
Parser = Callable[[Request, bytes], dict[str, Value]]
Renderer = Callable[[Mapping[str, Value], int | None], Response]

_ROOTS = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketAccelerateConfiguration": "AccelerateConfiguration",
    "GetBucketAcl": "AccessControlPolicy",
    "GetBucketCors": "CORSConfiguration",
    "GetBucketLifecycle": "LifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "GetBucketLogging": "BucketLoggingStatus",
    "GetBucketNotification": "NotificationConfiguration",
    "GetBucketNotificationConfiguration": "NotificationConfiguration",
    "GetBucketRequestPayment": "RequestPaymentConfiguration",
    "GetBucketTagging": "Tagging",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetBucketWebsite": "WebsiteConfiguration",
    "GetObjectAcl": "AccessControlPolicy",
    "GetObjectAttributes": "GetObjectAttributesResponse",
    "GetObjectTagging": "Tagging",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
}
"""Names of root elements, which botocore's copy of the model leaves out."""

_PAYLOAD_ROOTS = {"ObjectLockLegalHold": "LegalHold", "ObjectLockRetention": "Retention"}
_XML = ("Content-Type", "application/xml")


# -- requests


def _argument(name: str, text: str, what: str) -> Invalid:
    return Invalid(
        f"Provided {name} is not {what}", kind="InvalidArgument", details={"ArgumentName": name, "ArgumentValue": text}
    )


def _scalar_parser(wire: str, shape: Shape) -> Callable[[str], Value]:
    """How a query or header value becomes a value; None means: as if it weren't sent."""
    kind = shape.type_name
    if kind in ("integer", "long"):

        def number(text: str) -> int | None:
            if text == "":
                return None
            digits = text[1:] if text[0] in "-+" else text
            if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
                raise _argument(wire, text, "an integer or within integer range")
            return int(text)

        return number
    if kind == "boolean":
        return lambda text: text.strip().lower() == "true"
    if kind == "timestamp":
        return lambda text: parse_time(text.strip())
    if kind == "list":
        return lambda text: [item.strip() for item in text.split(",") if item.strip()]
    return lambda text: text


def _no_members(_body: bytes) -> dict[str, Value]:
    return {}


def _document_parser(operation: Operation, shape: StructureShape) -> Callable[[bytes], dict[str, Value]] | None:
    """How the body becomes members: a payload member, or a document of several; None when it streams."""
    payload = shape.serialization.get("payload")
    if payload is None:
        if not any("location" not in member.serialization for member in shape.members.values()):
            return _no_members
        whole = reader_of(shape)
        return lambda body: whole(read_document(body))
    member = shape.members[payload]
    if member.type_name == "blob":
        return None
    if member.type_name == "string":
        return lambda body: {payload: body.decode("utf-8", "replace")}
    reader = reader_of(member)
    root = member.serialization.get("name", payload)
    required = payload in shape.required_members

    def parse_payload(body: bytes) -> dict[str, Value]:
        if not body.strip():
            if required and operation.name not in _HEADERS_INSTEAD:
                raise Invalid("Request body is empty.", kind="MissingRequestBodyError")
            return {}
        element = read_document(body)
        if element.name != root:
            raise malformed(f"the root element is {element.name}, not {root}")
        return {payload: reader(element)}

    return parse_payload


_HEADERS_INSTEAD = frozenset({"PutBucketAcl", "PutObjectAcl"})
"""Calls that may say in headers what their document would."""


@lru_cache(maxsize=256)
def _parser(name: str) -> Parser:
    operation = operations()[name]
    shape = operation.input_shape
    if shape is None:
        return lambda _request, _body: {}
    uris: list[tuple[str, bool]] = []
    queries: list[tuple[str, str, Callable[[str], Value]]] = []
    headers: dict[bytes, tuple[str, Callable[[str], Value]]] = {}
    prefixes: list[tuple[str, bytes]] = []
    for member_name, member in shape.members.items():
        location = member.serialization.get("location")
        wire = member.serialization.get("name", member_name)
        if location == "uri":
            uris.append((member_name, wire == "Bucket"))
        elif location == "querystring":
            queries.append((member_name, wire, _scalar_parser(wire, member)))
        elif location == "header":
            headers[wire.lower().encode()] = (member_name, _scalar_parser(wire.lower(), member))
        elif location == "headers":
            prefixes.append((member_name, wire.lower().encode()))
    document = _document_parser(operation, shape)

    def parse_request(request: Request, body: bytes) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for member_name, is_bucket in uris:
            values[member_name] = request.bucket if is_bucket else request.key
        params = request.params
        for member_name, wire, convert in queries:
            if wire in params:
                _keep(values, member_name, convert(params[wire]))
        for key, raw in request.headers:
            found = headers.get(key)
            if found is not None:
                _join(values, found[0], found[1](_text(raw)))
        for member_name, prefix in prefixes:
            values[member_name] = _with_prefix(request.headers, prefix)
        if document is not None:
            values.update(document(body))
        return values

    return parse_request


def _text(raw: bytes) -> str:
    """A header value: UTF-8 where it is, else Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _keep(values: dict[str, Value], name: str, value: Value) -> None:
    if value is not None:
        values[name] = value


def _join(values: dict[str, Value], name: str, value: Value) -> None:
    """Keep a header's value; a repeated header is one list, or one text with commas."""
    if value is None:
        return
    before = values.get(name)
    if isinstance(before, list):
        values[name] = before + value
    elif isinstance(before, str):
        values[name] = f"{before},{value}"
    else:
        values[name] = value


def _with_prefix(headers: list[tuple[bytes, bytes]], prefix: bytes) -> dict[str, str]:
    """Headers that start with a prefix, without it; repeated ones joined by commas."""
    found: dict[str, str] = {}
    cut = len(prefix)
    for key, raw in headers:
        if key.startswith(prefix):
            name, value = key[cut:].decode("latin-1"), _text(raw)
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


def parse(operation: str, request: Request, body: bytes = b"") -> dict[str, Value]:
    """The operation's parameters from path, query, headers and the whole body.

    `body` is b"" when the operation streams it (`streams_body`). Raises Invalid: MalformedXML,
    MissingRequestBodyError, InvalidArgument.
    """
    return _parser(operation)(request, body)


@lru_cache(maxsize=256)
def streams_body(operation: str) -> bool:
    """True when the operation's body is object data, to be read from `request.body`."""
    found = operations().get(operation)
    if found is None:
        return True
    payload = found.input_shape.serialization.get("payload") if found.input_shape else None
    return bool(payload and found.input_shape and found.input_shape.members[payload].type_name == "blob")


@lru_cache(maxsize=256)
def accepts_document(operation: str) -> bool:
    """True when the operation reads a whole document or text from its body."""
    found = operations().get(operation)
    if found is None or found.input_shape is None or streams_body(operation):
        return False
    return any("location" not in member.serialization for member in found.input_shape.members.values())


# -- answers


def _body_renderer(operation: Operation, shape: StructureShape) -> Callable[[Mapping[str, Value]], bytes] | None:
    """How the document is written; None when the answer has none, or streams."""
    payload = shape.serialization.get("payload")
    if payload is not None:
        member = shape.members[payload]
        if member.type_name == "string":
            return lambda output: str(output.get(payload, "")).encode()
        if not isinstance(member, StructureShape) or member.serialization.get("eventstream"):
            return None
        root = _PAYLOAD_ROOTS.get(member.name, member.serialization.get("name", member.name))
        inner = members_writer(member, {})
        return lambda output: _document(root, inner, output.get(payload) or {})
    if not any("location" not in member.serialization for member in shape.members.values()):
        return None
    root = _ROOTS.get(operation.name, f"{operation.name}Result")
    if operation.name == "GetBucketLocation":
        return _location_document
    members = members_writer(shape, {})
    return lambda output: _document(root, members, output)


def _document(root: str, inner: Callable[[list[str], Value], None], value: Value) -> bytes:
    pieces = [DECLARATION, f'<{root} xmlns="{NAMESPACE}">']
    inner(pieces, value)
    pieces.append(f"</{root}>")
    return "".join(pieces).encode("utf-8", "replace")


def _location_document(output: Mapping[str, Value]) -> bytes:
    """The one answer whose root element itself is the value."""
    region = escape(str(output.get("LocationConstraint") or ""))
    text = f'{DECLARATION}<LocationConstraint xmlns="{NAMESPACE}">{region}</LocationConstraint>'
    return text.encode()


@lru_cache(maxsize=256)
def _renderer(name: str) -> Renderer:
    operation = operations()[name]
    shape = operation.output_shape
    status = operation.status
    if shape is None:
        return lambda _output, wanted: Response(status=wanted or status)
    headers: list[tuple[str, str, Callable[[Value], str]]] = []
    prefixes: list[tuple[str, str]] = []
    for member_name, member in shape.members.items():
        location = member.serialization.get("location")
        wire = member.serialization.get("name", member_name)
        if location == "header" and wire != "Content-Length":
            headers.append((member_name, wire, scalar_text(member, header=True)))
        elif location == "headers" and isinstance(member, MapShape):
            prefixes.append((member_name, wire))
    write_body = _body_renderer(operation, shape)

    def render_output(output: Mapping[str, Value], wanted: int | None) -> Response:
        answer: list[tuple[str, str]] = []
        for member_name, wire, text_of in headers:
            value = output.get(member_name)
            if value is not None:
                answer.append((wire, text_of(value)))
        for member_name, wire in prefixes:
            answer.extend((wire + suffix, value) for suffix, value in (output.get(member_name) or {}).items())
        if write_body is None:
            return Response(status=wanted or status, headers=answer, length=output.get("ContentLength"))
        body = write_body(output)
        answer.append(_XML)
        return Response(status=wanted or status, headers=answer, body=body, length=len(body))

    return render_output


def render(operation: str, output: Mapping[str, Value] | None = None, status: int | None = None) -> Response:
    """The answer of an operation: headers and document of `output`, the model's status unless given.

    Members that are absent or None are left out. Streaming answers come back with an empty body:
    the caller sets `body`; `length` is ContentLength, which the protocol makes a header of.
    """
    return _renderer(operation)(output or {}, status)


def render_error_document(fields: Mapping[str, str]) -> bytes:
    """S3's error document; `fields` in order, values escaped."""
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return f"{DECLARATION}<Error>{inner}</Error>".encode("utf-8", "replace")
