"""The codec against botocore: what it serializes we parse, what we render it parses, for every operation."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from botocore.awsrequest import HeadersDict, prepare_request_dict
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import RestXMLParser
from botocore.serialize import create_serializer

from headrace.base.errors import HeadraceError, Invalid
from headrace.base.limits import XML_BODY_BYTES_MAX
from headrace.gateway.addressing import parse_query
from headrace.gateway.codec import accepts_document, operation_of, parse, render, streams_body
from headrace.gateway.errors import KINDS, error_response
from headrace.gateway.messages import Request
from headrace.gateway.model import POST_OBJECT, operations
from headrace.gateway.times import parse_time

MODEL = ServiceModel(Loader().load_service_model("s3", "service-2"), "s3")
MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
# Deprecated calls share their routes with the current ones, whose names they never win.
NAMES = sorted(name for name, operation in operations().items() if not operation.deprecated)
SHADOWED = {"ListDirectoryBuckets"}
"""Told apart by the endpoint alone."""


def sample(shape: Any, depth: int = 0) -> Any:
    """A value of a shape with every member set."""
    kind = shape.type_name
    if kind == "structure":
        members = shape.members.items()
        return {name: sample(member, depth + 1) for name, member in members if depth < 9 and member.name != "Body"}
    if kind == "list":
        return [sample(shape.member, depth + 1), sample(shape.member, depth + 1)]
    if kind == "map":
        return {"colour": "blue", "size": "large"}
    if kind == "string":
        return shape.enum[0] if getattr(shape, "enum", None) else f'a&b<c>" and so on {shape.name}'
    return {"integer": 7, "long": 2**40, "boolean": True, "timestamp": MOMENT, "blob": b"bytes"}[kind]


def simple_sample(shape: Any) -> dict[str, Any]:
    """Values for an operation's input; text in URIs and headers without characters that those can't hold."""
    values = {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        value = sample(member)
        if location and member.type_name == "string" and not getattr(member, "enum", None):
            value = {"Bucket": "my-bucket", "Key": "a key/with ü+%"}.get(name, f"text-{name}")
        values[name] = value
    return values


def comparable(value: Any) -> Any:
    """The same value whatever side wrote it: times as seconds, no empty members."""
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items() if item not in (None, [], {})}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    return value.timestamp() if isinstance(value, dt.datetime) else value


def requested(name: str, values: dict[str, Any]) -> tuple[Request, bytes]:
    """botocore's request for an operation as the gateway would see it."""
    model = MODEL.operation_model(name)
    wire = create_serializer("rest-xml").serialize_to_request(values, model)
    prepare_request_dict(wire, endpoint_url="http://host")
    parts = urlsplit(wire["url"])
    path = unquote(parts.path).removeprefix("/")
    bucket, _, key = path.partition("/")
    headers = [(name.lower().encode(), str(value).encode()) for name, value in wire["headers"].items()]
    request = Request(
        wire["method"], parts.path.encode(), parts.query.encode(), headers,
        bucket=bucket, key=key, params=parse_query(parts.query.encode()),
    )  # fmt: skip
    body = wire["body"]
    return request, body.encode() if isinstance(body, str) else bytes(body or b"")


@pytest.mark.parametrize("name", NAMES)
def test_requests_of_botocore_are_understood(name: str) -> None:
    operation = operations()[name]
    shape = MODEL.operation_model(name).input_shape
    values = simple_sample(shape) if shape is not None else {}
    request, body = requested(name, values)
    if name not in SHADOWED:
        routed = operation_of(request.method, bool(request.bucket), bool(request.key), request.params, request.headers)
        assert routed == name
    parsed = parse(name, request, b"" if streams_body(name) else body)
    expected = comparable(values)
    for member_name, member in (operation.input_shape.members if operation.input_shape else {}).items():
        if member.type_name == "blob":
            expected.pop(member_name, None)
    assert comparable(parsed) == expected


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_understood_by_botocore(name: str) -> None:
    shape = MODEL.operation_model(name).output_shape
    if shape is None:
        assert render(name).body == b""
        return
    payload = shape.serialization.get("payload")
    if payload and shape.members[payload].serialization.keys() & {"streaming", "eventstream"}:
        assert render(name, {"RequestCharged": "requester"}).body == b""  # the caller streams it
        return
    output = sample(shape)
    for member_name, member in shape.members.items():
        if member.serialization.get("location") == "header" and member.type_name == "string" and not member.enum:
            output[member_name] = f"text-{member_name}"
    output.pop("ContentLength", None)
    response = render(name, output)
    answered = {
        "status_code": response.status,
        "headers": HeadersDict(response.headers),
        "body": response.body,
    }
    parsed = RestXMLParser().parse(answered, shape)
    parsed.pop("ResponseMetadata", None)
    if name == "GetBucketLocation":  # botocore's parser leaves the root's text to a handler of the client
        assert b"<LocationConstraint" in answered["body"]
        return
    assert comparable(parsed) == comparable(output)


def test_routes_tell_calls_apart() -> None:
    source = [(b"x-amz-copy-source", b"/a/b")]
    part = {"uploadId": "u", "partNumber": "1"}
    assert operation_of("GET", False, False, {}, []) == "ListBuckets"
    assert operation_of("GET", True, False, {"list-type": "2"}, []) == "ListObjectsV2"
    assert operation_of("GET", True, False, {"list-type": "1"}, []) == "ListObjects"
    assert operation_of("GET", True, False, {"versions": "", "prefix": "x"}, []) == "ListObjectVersions"
    assert operation_of("PUT", True, True, {}, source) == "CopyObject"
    assert operation_of("PUT", True, True, part, source) == "UploadPartCopy"
    assert operation_of("PUT", True, True, part, []) == "UploadPart"
    assert operation_of("GET", True, True, {"uploadId": "u"}, []) == "ListParts"
    assert operation_of("GET", True, True, {"partNumber": "1", "x-id": "GetObject"}, []) == "GetObject"
    assert operation_of("GET", True, True, {"attributes": ""}, []) == "GetObjectAttributes"
    assert operation_of("GET", True, False, {"lifecycle": ""}, []) == "GetBucketLifecycleConfiguration"
    assert operation_of("POST", True, False, {}, []) == POST_OBJECT
    assert operation_of("GET", True, True, {"utm": "x"}, []) == "GetObject"


@pytest.mark.parametrize(
    ("method", "has_key", "params", "kind"),
    [
        ("PUT", True, {"uploadId": "u"}, "MethodNotAllowed"),
        ("PUT", False, {"uploads": ""}, "MethodNotAllowed"),
        ("PATCH", True, {}, "MethodNotAllowed"),
        ("POST", True, {}, "MethodNotAllowed"),
        ("GET", False, {"acl": "", "cors": ""}, "InvalidArgument"),
    ],
)
def test_routes_refuse(method: str, has_key: bool, params: dict[str, str], kind: str) -> None:
    with pytest.raises(Invalid) as refused:
        operation_of(method, True, has_key, params, [])
    assert refused.value.kind == kind


HOSTILE = [
    b"",
    b"not xml",
    b"<Delete><Object><Key>a</Key></Object>",
    b"<Other><Object><Key>a</Key></Object></Other>",
    b"<Delete><Object></Object></Delete>",
    b"<Delete><Quiet>perhaps</Quiet><Object><Key>a</Key></Object></Delete>",
    b"<Delete><Quiet>true</Quiet></Delete>",
    b"<Delete><Quiet>true</Quiet><Quiet>true</Quiet><Object><Key>a</Key></Object></Delete>",
    b'<!DOCTYPE d [<!ENTITY a "b">]><Delete><Object><Key>&a;</Key></Object></Delete>',
    b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><Delete/>',
    b"<?include x?><Delete><Object><Key>a</Key></Object></Delete>",
    b"<Delete>" + b"<a>" * 100 + b"</a>" * 100 + b"</Delete>",
    b"<Delete>" + b"<a/>" * 200_001 + b"</Delete>",
    b"<Delete>" + b" " * XML_BODY_BYTES_MAX + b"</Delete>",
    b"<Delete><Object><Key>\xff</Key></Object></Delete>",
    b'<?xml version="1.0" encoding="nonsense"?><Delete><Object><Key>a</Key></Object></Delete>',
    b"<Delete><Object><Key>&#0;</Key></Object></Delete>",
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_documents_are_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        parse("DeleteObjects", Request("POST", b"/b", b"delete", [], bucket="b"), body)
    assert refused.value.kind in ("MalformedXML", "MissingRequestBodyError")


def test_documents_may_lack_the_namespace_and_hold_unknown_elements() -> None:
    request = Request("POST", b"/b", b"delete", [], bucket="b")
    for namespace in (b"", b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'):
        body = b"<Delete%s><New>x</New><Object><Key> a\n\xc3\xa9</Key></Object></Delete>" % namespace
        assert parse("DeleteObjects", request, body)["Delete"] == {"Objects": [{"Key": " a\né"}]}


def test_numbers_in_the_query_are_checked() -> None:
    for text in ("x", "1e3", "²", "9" * 30, "-"):
        with pytest.raises(Invalid) as refused:
            parse("ListObjects", Request("GET", b"/b", b"", [], bucket="b", params={"max-keys": text}))
        assert refused.value.kind == "InvalidArgument"
    parsed = parse("ListObjects", Request("GET", b"/b", b"", [], bucket="b", params={"max-keys": ""}))
    assert "MaxKeys" not in parsed


def test_control_characters_come_out_as_references() -> None:
    body = render("ListObjects", {"Contents": [{"Key": "a\x01\r<&>"}]}).body
    assert b"<Key>a&#x1;&#xd;&lt;&amp;&gt;</Key>" in body


def test_which_bodies_are_read_whole() -> None:
    assert streams_body("PutObject")
    assert streams_body("UploadPart")
    assert not streams_body("DeleteObjects")
    assert accepts_document("DeleteObjects")
    assert accepts_document("PutBucketPolicy")
    assert not accepts_document("CreateMultipartUpload")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Mon, 06 May 2024 07:08:09 GMT", MOMENT.timestamp()),
        ("Monday, 06-May-24 07:08:09 GMT", MOMENT.timestamp()),
        ("2024-05-06T07:08:09Z", MOMENT.timestamp()),
        ("2024-05-06T07:08:09.000Z", MOMENT.timestamp()),
        ("1714979289", MOMENT.timestamp()),
        ("yesterday", None),
        ("", None),
        ("9" * 40, None),
        ("Mon, 99 May 2024 07:08:09 GMT", None),
    ],
)
def test_times(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


def test_every_error_kind_becomes_a_document() -> None:
    request = Request("GET", b"/b/<k>", b"", [], request_id="42")
    for kind, (status, message) in KINDS.items():
        response = error_response(request, HeadraceError("", kind=kind))
        assert response.status == status
        if status == 304:
            assert response.body == b""
            continue
        assert f"<Code>{kind}</Code>".encode() in response.body
        assert b"<RequestId>42</RequestId>" in response.body
        assert b"/b/&lt;k&gt;" in response.body
        assert message


def test_unexpected_failures_tell_nothing(caplog: pytest.LogCaptureFixture) -> None:
    response = error_response(Request("GET", b"/", b"", [], request_id="7"), RuntimeError("the secret path"))
    assert response.status == 500
    assert b"secret" not in response.body
    assert error_response(Request("HEAD", b"/", b"", []), HeadraceError("x", kind="NoSuchKey")).body == b""
    assert caplog is not None
