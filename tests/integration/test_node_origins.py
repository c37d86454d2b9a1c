"""A node before a real S3 server: an account's buckets appear, are cached, and the cache survives a restart."""

from __future__ import annotations

import os

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from node import Node, command, wait_until

SIZE = 5_000_000


@pytest.fixture
def remote(s3_server):
    """A client of the S3 server itself."""
    return boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )


def around(s3_server):
    """The host's AWS settings, as a user of that server has them."""
    return {
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def read(client, bucket, key):
    answer = client.get_object(Bucket=bucket, Key=key)
    return answer["Body"].read(), answer["ResponseMetadata"]["HTTPHeaders"].get("x-cache")


def found(client, bucket):
    """The object's bytes; None as long as the bucket is not known."""
    try:
        return read(client, bucket, "k")[0]
    except client.exceptions.NoSuchBucket:
        return None


def test_all_workers_agree_at_once_about_the_buckets_of_an_account(tmp_path, s3_server, remote):
    with Node(tmp_path / "data", "--workers", "3", "--origin", "s3://", **around(s3_server)) as node:
        for turn in range(3):
            # Each client has a connection of its own, so several workers are asked.
            clients = [node.client() for _ in range(6)]
            bucket = f"agreed-{turn}"
            clients[0].create_bucket(Bucket=bucket)
            for client in clients:
                client.head_bucket(Bucket=bucket)
                dates = {entry["Name"]: entry["CreationDate"].year for entry in client.list_buckets()["Buckets"]}
                assert dates[bucket] > 2020
            assert bucket in [entry["Name"] for entry in remote.list_buckets()["Buckets"]]
            clients[1].delete_bucket(Bucket=bucket)
            for client in clients:
                assert bucket not in [entry["Name"] for entry in client.list_buckets()["Buckets"]]
                with pytest.raises(ClientError, match="404"):
                    client.head_bucket(Bucket=bucket)
            assert bucket not in [entry["Name"] for entry in remote.list_buckets()["Buckets"]]


def test_an_accounts_buckets_appear_and_are_cached_across_restarts(tmp_path, s3_server, remote):
    body = os.urandom(SIZE)
    remote.create_bucket(Bucket="account-one")
    remote.put_object(Bucket="account-one", Key="k", Body=body)
    flags = ("--origin", "s3://", "--freshness", "account-one/=immutable")
    with Node(tmp_path / "data", *flags, **around(s3_server)) as node:
        client = node.client()
        assert "account-one" in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        assert read(client, "account-one", "k")[0] == body
        wait_until(lambda: read(client, "account-one", "k") == (body, "HIT"))
        remote.create_bucket(Bucket="account-two")
        remote.put_object(Bucket="account-two", Key="k", Body=b"late")
        assert wait_until(lambda: found(client, "account-two")) == b"late"  # within ACCOUNT_DISCOVER_SECONDS
        with pytest.raises(ClientError, match="NoSuchBucket"):
            client.get_object(Bucket="account-none", Key="k")
        client.put_object(Bucket="account-one", Key="written", Body=b"through")
        assert remote.get_object(Bucket="account-one", Key="written")["Body"].read() == b"through"
        assert node.stop() == 0
    remote.delete_object(Bucket="account-one", Key="k")
    with Node(tmp_path / "data", *flags, **around(s3_server)) as node:
        assert read(node.client(), "account-one", "k") == (body, "HIT")


def test_a_bucket_bound_before_the_start_is_served_and_doctor_reaches_it(tmp_path, s3_server, remote):
    remote.create_bucket(Bucket="bound-remote")
    remote.put_object(Bucket="bound-remote", Key="in/k", Body=b"hello")
    data = tmp_path / "data"
    command("bucket", "add", "bound", s3_server.url("bound-remote", "in/"), data=data)
    with Node(data) as node:
        assert node.client().get_object(Bucket="bound", Key="k")["Body"].read() == b"hello"
    listed = command("bucket", "list", data=data).stdout
    assert "bound" in listed
    assert f":{s3_server.secret_key}@" not in listed
    report = command("doctor", data=data, check=False, HEADRACE_PORT="0").stdout
    assert "ok    origin bound:" in report
    assert "ok    origin bound: clock:" in report
    assert f":{s3_server.secret_key}@" not in report
