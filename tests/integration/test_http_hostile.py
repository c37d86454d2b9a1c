"""Malformed, ambiguous, cut-off and stalled HTTP: each gets S3's own error, or a clean cut; others go on."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.testing.node import Node

BUCKET = "hostile"
BODY = os.urandom(100_000)
BIG = os.urandom(1 << 20) * 48


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with one bucket and two objects."""
    with Node(tmp_path_factory.mktemp("hostile")) as started:
        client = started.client()
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="object", Body=BODY)
        client.put_object(Bucket=BUCKET, Key="big", Body=BIG)
        yield started


def dial(node: Node, timeout: float = 20.0) -> socket.socket:
    """A raw connection."""
    return socket.create_connection(("127.0.0.1", node.port), timeout)


def talk(node: Node, data: bytes, *, finish: bool = False) -> bytes:
    """Send bytes, read until the server closes or falls silent for a moment after an answer."""
    with dial(node) as raw:
        raw.sendall(data)
        if finish:
            raw.shutdown(socket.SHUT_WR)
        return read_all(raw)


def read_all(raw: socket.socket, quiet: float = 0.4) -> bytes:
    """Everything until the end, or until nothing came for `quiet` seconds after something did."""
    got = b""
    while True:
        try:
            piece = raw.recv(1 << 20)
        except (TimeoutError, ConnectionResetError):
            return got
        if not piece:
            return got
        got += piece
        raw.settimeout(quiet)


def target(node: Node, method: str, key: str, **params: Any) -> str:
    """Path and query of a presigned request."""
    url = node.client().generate_presigned_url(method, {"Bucket": BUCKET, "Key": key, **params})
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def get(node: Node, key: str = "object", extra: str = "", version: str = "1.1") -> bytes:
    """A presigned GET as bytes."""
    head = f"GET {target(node, 'get_object', key)} HTTP/{version}\r\nHost: 127.0.0.1:{node.port}\r\n{extra}\r\n"
    return head.encode()


def status(answer: bytes) -> int:
    """Status of the first answer; 0 when there is none."""
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else 0


def code(answer: bytes) -> str:
    """S3 error code of an answer."""
    found = re.search(rb"<Code>(\w+)</Code>", answer)
    return found[1].decode() if found else ""


def healthy(node: Node) -> bool:
    """Does it still serve others?"""
    return bool(node.client().get_object(Bucket=BUCKET, Key="object")["Body"].read() == BODY)


HOST = b"Host: localhost\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"A: \x00\r\n\r\n",
        b"GET / HTTP/1.1\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"PUT /b/k HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
        b"PUT /b/k HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET http://other/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT other:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: a\r\n" % n for n in range(200)) + b"\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /b/%00 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /b/%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_bytes_that_are_no_request_get_an_error(node: Node, data: bytes) -> None:
    answer = talk(node, data)
    assert 400 <= status(answer) < 600, answer[:200]
    assert status(answer) != 500
    assert healthy(node)


def test_a_smuggled_request_is_never_answered(node: Node) -> None:
    inner = b"GET /_headrace/health HTTP/1.1\r\n" + HOST + b"\r\n"
    head = b"POST /b?delete HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = talk(node, head % (5 + len(inner)) + b"0\r\n\r\n" + inner)
    assert status(answer) == 400
    assert b'"ready"' not in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_keys_that_look_like_paths_are_just_keys(node: Node) -> None:
    client = node.client()
    for number, key in enumerate(
        ["../../etc/passwd", "a//b", "/lead", "a/../b", "trail/", "é/ü", " sp ace", "%2e%2e/x"]
    ):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"%d" % number)
        assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"%d" % number
    listed = {entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert {"../../etc/passwd", "a//b", "/lead", "a/../b", "trail/"} <= listed


def test_the_longest_key_and_one_byte_more(node: Node) -> None:
    client = node.client()
    client.put_object(Bucket=BUCKET, Key="k" * 1024, Body=b"x")
    assert client.get_object(Bucket=BUCKET, Key="k" * 1024)["Body"].read() == b"x"
    with pytest.raises(client.exceptions.ClientError, match="KeyTooLong"):
        client.put_object(Bucket=BUCKET, Key="k" * 1025, Body=b"x")
    with pytest.raises(client.exceptions.ClientError, match="KeyTooLong"):
        client.put_object(Bucket=BUCKET, Key="é" * 600, Body=b"x")


def test_pipelined_requests_are_answered_in_order(node: Node) -> None:
    requests = b"".join(get(node, "object", f"Range: bytes={n}-{n}\r\n") for n in range(12))
    answer = talk(node, requests + get(node, "object", "Connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 206") == 12
    found = [int(number) for number in re.findall(rb"Content-Range: bytes (\d+)-", answer)]
    assert found == list(range(12))
    assert answer.endswith(BODY)


def test_a_flood_of_pipelined_requests_is_bounded_and_answered(node: Node) -> None:
    one = get(node, "object", "Range: bytes=0-0\r\n")
    with dial(node) as raw:
        raw.settimeout(30)
        total = 400
        raw.sendall(one * total)
        got = b""
        while got.count(b"HTTP/1.1 206") < total:
            piece = raw.recv(1 << 16)
            assert piece, "closed early"
            got += piece
    assert healthy(node)


def test_half_closed_client_gets_its_whole_answer(node: Node) -> None:
    answer = talk(node, get(node), finish=True)
    assert status(answer) == 200
    assert answer.endswith(BODY)


def test_http_1_0_closes_and_keep_alive_is_honoured(node: Node) -> None:
    answer = talk(node, get(node, version="1.0"))
    assert answer.endswith(BODY)
    assert b"Connection: close" in answer


def test_head_sends_no_body_and_keeps_the_connection(node: Node) -> None:
    head = f"HEAD {target(node, 'head_object', 'object')} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n\r\n".encode()
    answer = talk(node, head + get(node, "object", "Range: bytes=0-3\r\n"))
    assert answer.count(b"HTTP/1.1 2") == 2
    assert answer.endswith(BODY[:4])


def test_head_of_what_is_not_there_has_no_body(node: Node) -> None:
    head = f"HEAD {target(node, 'head_object', 'missing')} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n\r\n".encode()
    answer = talk(node, head)
    assert status(answer) == 404
    assert answer.endswith(b"\r\n\r\n")


def test_continue_is_sent_only_when_the_body_is_wanted(node: Node) -> None:
    good = target(node, "put_object", "continued")
    head = f"PUT {good} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with dial(node) as raw:
        raw.sendall(head.encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw.sendall(b"hello")
        assert status(raw.recv(4000)) == 200
    refused = head.replace("X-Amz-Signature=", "X-Amz-Signature=0")
    answer = talk(node, refused.encode())
    assert status(answer) == 403
    assert b"100 Continue" not in answer
    assert node.client().get_object(Bucket=BUCKET, Key="continued")["Body"].read() == b"hello"


def test_a_refused_upload_can_read_its_error_while_it_is_still_sending(node: Node) -> None:
    head = f"PUT /{BUCKET}/refused HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nContent-Length: {4 << 20}\r\n\r\n"
    with dial(node) as raw:
        raw.sendall(head.encode() + bytes(4 << 20))
        answer = read_all(raw)
    assert status(answer) == 403
    assert code(answer) == "AccessDenied"


@pytest.mark.parametrize("sent", [0, 1, 1000, 99_999])
def test_an_upload_cut_off_stores_nothing(node: Node, sent: int) -> None:
    path = target(node, "put_object", f"cut-{sent}")
    head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nContent-Length: 100000\r\n\r\n".encode()
    answer = talk(node, head + BODY[:sent], finish=True)
    assert status(answer) in (0, 400)
    client = node.client()
    with pytest.raises(client.exceptions.ClientError, match=r"404|NoSuchKey"):
        client.head_object(Bucket=BUCKET, Key=f"cut-{sent}")


def test_a_header_without_end_is_refused_while_it_grows(node: Node) -> None:
    with dial(node) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"X: ")
        sent = 0
        with contextlib.suppress(OSError):  # the server answers and cuts the connection
            while sent < 64 << 20:
                sent += raw.send(b"a" * 65536)
        assert sent < 32 << 20
    assert healthy(node)


def test_a_pipelined_upload_waits_in_the_socket_not_in_memory(node: Node) -> None:
    size = 300 << 20
    head = f"PUT {target(node, 'put_object', 'piped')} HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\n"
    before = worker_memory(node)
    with dial(node) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(get(node, "big") + f"{head}Content-Length: {size}\r\n\r\n".encode())
        raw.settimeout(1.0)
        sent = 0
        with contextlib.suppress(TimeoutError):  # the GET's answer is not read, so the PUT's body must wait
            while sent < size:
                sent += raw.send(bytes(1 << 20))
        assert sent < size
        assert worker_memory(node) - before < 64 << 20
    assert healthy(node)


def test_a_client_that_stops_reading_delays_nobody(node: Node) -> None:
    stalled = []
    try:
        for _ in range(8):
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", node.port))
            raw.sendall(get(node, "big"))
            raw.recv(100)
            stalled.append(raw)
        assert healthy(node)
        assert node.client().get_object(Bucket=BUCKET, Key="big")["Body"].read() == BIG
    finally:
        for raw in stalled:
            raw.close()
    assert healthy(node)


def worker_memory(node: Node) -> int:
    """Private bytes of the node's processes together."""
    assert node.process is not None
    family = [psutil.Process(node.process.pid), *psutil.Process(node.process.pid).children(recursive=True)]
    return sum(process.memory_full_info().uss for process in family)


def test_thousands_of_idle_connections_are_cheap_and_let_others_in(node: Node) -> None:
    before = worker_memory(node)
    idle = [dial(node) for _ in range(3000)]
    try:
        assert healthy(node)
        assert worker_memory(node) - before < 3000 * 20_000
    finally:
        for raw in idle:
            raw.close()
    assert healthy(node)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=400))
@example(b"PUT /b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n")
@example(b"GET /?%zz=%1 HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"GET /b/k HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 \xff\r\n\r\n")
@example(b"GET /b/k HTTP/1.1\r\nHost: \xff\xfe\r\nRange: bytes=-\r\n\r\n")
def test_random_bytes_never_break_the_node(node: Node, data: bytes) -> None:
    with dial(node) as raw:
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        answer = read_all(raw)
    assert status(answer) != 500
    assert "Traceback" not in node.log()


def test_the_node_never_logged_a_traceback(node: Node) -> None:
    assert "Traceback" not in node.log()
    assert healthy(node)
