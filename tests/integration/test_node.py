"""A node as its users meet it: started, watched, killed in parts, stopped, started again."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from node import Node, command, wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("shared") / "data") as node:
        yield node


def test_health_is_open_and_the_rest_asks_for_keys(node):
    assert node.get("/_headrace/health", "")[0] == 200
    assert node.get("/_headrace/metrics", "")[0] == 403
    assert node.get("/_headrace/status", "")[0] == 403
    assert node.get("/_headrace/metrics")[0] == 200
    assert node.get("/_headrace/status")[0] == 200
    assert node.get("/_headrace/nothing")[0] == 404
    made = command("key", "create", "--json", data=node.data).stdout
    access_key, secret_key = re.findall(r'_key": "(\w+)"', made)
    assert node.get("/_headrace/metrics", access_key, secret_key)[0] == 200
    assert node.get("/_headrace/status", access_key, secret_key)[0] == 403


def test_a_call_that_is_none_of_s3s_is_answered_and_counted(node):
    url = node.client().generate_presigned_url("get_object", Params={"Bucket": "b-one", "Key": "k"})
    request = urllib.request.Request(url, method="PATCH")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=30)
    with raised.value as answer:
        assert 400 <= answer.code < 500
    assert node.client().list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_reads_show_in_the_metrics(node):
    client = node.client()
    client.create_bucket(Bucket="counted")
    client.put_object(Bucket="counted", Key="k", Body=b"x" * 1000)
    for _ in range(5):
        assert client.get_object(Bucket="counted", Key="k")["Body"].read() == b"x" * 1000

    def counted():
        found = re.findall(rb"headrace_read_requests_total\{[^}]*\} (\d+)", node.get("/_headrace/metrics")[1])
        return sum(map(int, found)) >= 5

    wait_until(counted)
    text = node.get("/_headrace/metrics")[1]
    assert re.search(rb'headrace_requests_total\{operation="PutObject",result="ok"\} [1-9]', text)
    for name in (b"headrace_build_info", b"headrace_cache_capacity_bytes", b"headrace_connections_open"):
        assert name in text


def test_a_second_start_is_refused_and_names_the_process(node):
    refused = command("up", "--port", "0", data=node.data, check=False)
    assert refused.returncode == 5
    assert str(node.process.pid) in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert node.get("/_headrace/health", "")[0] == 200


def test_a_taken_port_is_refused(node, tmp_path):
    port = node.endpoint.rpartition(":")[2]
    refused = command("up", "--port", port, data=tmp_path / "other", check=False)
    assert refused.returncode == 5
    assert "taken" in refused.stderr


def test_a_revoked_key_is_refused_by_the_next_request(node):
    made = command("key", "create", "--json", data=node.data).stdout
    access_key, secret_key = re.findall(r'_key": "(\w+)"', made)
    client = node.client(access_key, secret_key)
    client.create_bucket(Bucket="revoked")
    client.put_object(Bucket="revoked", Key="k", Body=b"x")
    for _ in range(3):
        client.get_object(Bucket="revoked", Key="k")
    command("key", "revoke", access_key, data=node.data)
    with pytest.raises(ClientError) as raised:
        client.get_object(Bucket="revoked", Key="k")
    assert raised.value.response["Error"]["Code"] == "InvalidAccessKeyId"


def test_a_folder_is_bound_and_unbound_while_the_node_runs(node, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_bytes(b"hello")
    command("bucket", "add", "folder", f"file://{tmp_path}/folder", data=node.data)
    client = node.client()
    assert client.get_object(Bucket="folder", Key="a.txt")["Body"].read() == b"hello"
    assert "folder" in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    assert "added" in command("bucket", "list", data=node.data).stdout
    command("bucket", "remove", "folder", data=node.data)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client.get_object(Bucket="folder", Key="a.txt")
    assert (tmp_path / "folder" / "a.txt").exists()


def test_killed_parts_come_back_and_nothing_is_lost(node):
    client = node.client()
    client.create_bucket(Bucket="kept")
    client.put_object(Bucket="kept", Key="k", Body=b"kept")
    for name in ("worker-0", "agent"):
        victim = node.children()[name]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda name=name, victim=victim: node.children().get(name, victim) != victim)
        # The listening socket outlives the worker, so this waits instead of being refused.
        assert node.client().get_object(Bucket="kept", Key="k")["Body"].read() == b"kept"
    assert {event.get("child") for event in node.events() if event["event"] == "child ended"} >= {"worker-0", "agent"}


def test_first_start_makes_a_key_once_and_restart_finds_everything(tmp_path):
    data = tmp_path / "data"
    with Node(data, keys=False) as node:
        keys = re.findall(r"export AWS_(?:ACCESS_KEY_ID|SECRET_ACCESS_KEY)=(\w+)", node.printed)
        client = node.client(*keys)
        client.create_bucket(Bucket="kept")
        client.put_object(Bucket="kept", Key="k", Body=b"kept")
        assert node.stop() == 0
        assert node.children() == {}
    with Node(data, keys=False) as node:
        assert "SECRET" not in node.printed
        assert node.client(*keys).get_object(Bucket="kept", Key="k")["Body"].read() == b"kept"
        assert node.stop(signal.SIGINT) == 0
    assert keys[1].encode() not in b"".join(path.read_bytes() for path in (data / "run").glob("*.json"))


def test_a_request_in_flight_is_finished_before_the_node_stops(tmp_path):
    with Node(tmp_path / "data") as node:
        client = node.client()
        client.create_bucket(Bucket="slow")
        size = 200_000
        host, port = node.endpoint.removeprefix("http://").split(":")
        url = client.generate_presigned_url("put_object", Params={"Bucket": "slow", "Key": "k"})
        target = url.removeprefix(node.endpoint)
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = f"PUT {target} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode() + b"x" * (size // 2))
            wait_until(lambda: b"headrace_connections_open" in node.get("/_headrace/metrics")[1])
            status: list[int] = []
            stopper = threading.Thread(target=lambda: status.append(node.stop()))
            stopper.start()
            wait_until(lambda: _refused(host, int(port)))
            connection.sendall(b"x" * (size // 2))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        stopper.join(60)
        assert status == [0]


def _refused(host, port):
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return True
    return False


def test_no_child_outlives_a_killed_supervisor_and_the_directory_is_free(tmp_path):
    with Node(tmp_path / "data") as node:
        node.client().create_bucket(Bucket="kept")
        pids = node.children().values()
        node.stop(signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with Node(tmp_path / "data") as node:
        assert [bucket["Name"] for bucket in node.client().list_buckets()["Buckets"]] == ["kept"]


def test_a_start_that_cannot_work_ends_with_one_clear_line(tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    bad = str(tmp_path / "bad.pem")
    failed = command("up", "--port", "0", "--tls-cert", bad, "--tls-key", bad, data=tmp_path / "data", check=False)
    assert failed.returncode == 2
    assert "PEM files that belong together" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "SECRET" not in failed.stdout
    assert command("key", "list", data=tmp_path / "data").stdout.count("\n") == 1


def test_an_origin_that_leads_back_to_the_node_is_refused(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    refused = command(
        "up", "--port", port, "--origin", "s3://", data=tmp_path / "data", check=False,
        AWS_ENDPOINT_URL=f"http://localhost:{port}",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "leads back to this node" in refused.stderr
