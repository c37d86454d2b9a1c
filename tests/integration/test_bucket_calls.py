"""Bucket-level calls as boto3 makes them: names, listings, documents, and who may do what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from inprocess_gateway import DOMAIN, InProcessGateway

from headrace.gateway.keyring import Rule


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessGateway]:
    """One gateway for all tests of this file; each uses buckets of its own."""
    opened = InProcessGateway(tmp_path_factory.mktemp("gateway"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def main(gateway: InProcessGateway) -> Any:
    """A user's client."""
    return gateway.client("main")


@pytest.fixture(scope="module")
def other(gateway: InProcessGateway) -> Any:
    """Another user's client."""
    return gateway.client("other")


@pytest.fixture(scope="module")
def stranger(gateway: InProcessGateway) -> Any:
    """A client that signs nothing."""
    return gateway.client()


def refusal(call: Any, **arguments: Any) -> str:
    """The error code a call ends with."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return str(error.value.response["Error"]["Code"])


def fill(client: Any, bucket: str, *keys: str) -> None:
    """Make a bucket with small objects."""
    client.create_bucket(Bucket=bucket)
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())


def names(answer: dict[str, Any]) -> list[str]:
    """Keys and common prefixes of a listing."""
    keys = [entry["Key"] for entry in answer.get("Contents", [])]
    return keys + [entry["Prefix"] for entry in answer.get("CommonPrefixes", [])]


# -- buckets


@pytest.mark.parametrize(
    "name",
    ["ab", "a" * 64, "Upper", "under_score", "-a-b", "ab-", "a..b", "a.-b", "a-.b", "1.2.3.4", "xn--abc", "abc--x-s3"],
)
def test_bad_bucket_names(main: Any, name: str) -> None:
    assert refusal(main.create_bucket, Bucket=name) == "InvalidBucketName"


def test_creation_is_repeatable_by_its_owner_alone(main: Any, other: Any, stranger: Any) -> None:
    main.create_bucket(Bucket="mine", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert main.get_bucket_location(Bucket="mine")["LocationConstraint"] == "eu-west-1"
    main.create_bucket(Bucket="mine")
    assert refusal(main.create_bucket, Bucket="mine", ACL="public-read") == "BucketAlreadyExists"
    assert refusal(other.create_bucket, Bucket="mine") == "BucketAlreadyExists"
    assert refusal(stranger.create_bucket, Bucket="yours") == "AccessDenied"
    assert refusal(other.delete_bucket, Bucket="mine") == "AccessDenied"
    main.put_object(Bucket="mine", Key="k", Body=b"")
    assert refusal(main.delete_bucket, Bucket="mine") == "BucketNotEmpty"
    main.delete_object(Bucket="mine", Key="k")
    main.delete_bucket(Bucket="mine")
    assert refusal(main.head_bucket, Bucket="mine") == "404"


def test_buckets_are_listed_in_pages_and_only_to_who_may_see_them(gateway: InProcessGateway, other: Any) -> None:
    fresh = gateway.client("fresh")
    for name in ("page-b", "page-a", "other-c"):
        fresh.create_bucket(Bucket=name)
    first = fresh.list_buckets(MaxBuckets=2)
    assert [bucket["Name"] for bucket in first["Buckets"]] == ["other-c", "page-a"]
    rest = fresh.list_buckets(MaxBuckets=2, ContinuationToken=first["ContinuationToken"])
    assert [bucket["Name"] for bucket in rest["Buckets"]] == ["page-b"]
    assert "ContinuationToken" not in rest
    assert [bucket["Name"] for bucket in fresh.list_buckets(Prefix="page-")["Buckets"]] == ["page-a", "page-b"]
    assert not {"page-a", "page-b"} & {bucket["Name"] for bucket in other.list_buckets()["Buckets"]}
    seeing = gateway.client("auditor", policy=(Rule("page-*", ("list",)),))
    assert [bucket["Name"] for bucket in seeing.list_buckets()["Buckets"]] == ["page-a", "page-b"]
    assert refusal(fresh.list_buckets, ContinuationToken="???") == "InvalidArgument"


def test_both_addressing_styles_reach_one_bucket(gateway: InProcessGateway, main: Any) -> None:
    virtual = gateway.client("main", s3={"addressing_style": "virtual"})
    fill(main, "styles", "a//b", "a/../c")
    assert names(virtual.list_objects_v2(Bucket="styles")) == ["a/../c", "a//b"]
    assert virtual.get_object(Bucket="styles", Key="a//b")["Body"].read() == b"a//b"
    assert DOMAIN in virtual.meta.endpoint_url


# -- listings


def test_listings_echo_what_was_asked(main: Any) -> None:
    fill(main, "echo", "a/1", "a/2", "b c+ü", "d\n")
    plain = main.list_objects(Bucket="echo", Delimiter="/", MaxKeys=1)
    assert names(plain) == ["a/"]
    assert (plain["NextMarker"], plain["IsTruncated"], plain["MaxKeys"]) == ("a/", True, 1)
    assert names(main.list_objects(Bucket="echo", Delimiter="/", Marker=plain["NextMarker"])) == ["b c+ü", "d\n"]
    encoded = main.list_objects(Bucket="echo", EncodingType="url", Prefix="b")
    assert names(encoded) == ["b%20c%2B%C3%BC"]
    second = main.list_objects_v2(Bucket="echo", StartAfter="a/1", MaxKeys=1, FetchOwner=True)
    assert (names(second), second["StartAfter"], second["KeyCount"]) == (["a/2"], "a/1", 1)
    assert second["Contents"][0]["Owner"]["DisplayName"] == "main"
    third = main.list_objects_v2(Bucket="echo", ContinuationToken=second["NextContinuationToken"])
    assert (names(third), third["IsTruncated"]) == (["b c+ü", "d\n"], False)
    nothing = main.list_objects_v2(Bucket="echo", MaxKeys=0)
    assert (names(nothing), nothing["IsTruncated"]) == ([], False)
    versions = main.list_object_versions(Bucket="echo", MaxKeys=3)
    assert {entry["VersionId"] for entry in versions["Versions"]} == {"null"}
    assert versions["NextKeyMarker"] == "b c+ü"


def test_wrong_listings(main: Any) -> None:
    main.create_bucket(Bucket="wrong-lists")
    assert refusal(main.list_objects, Bucket="wrong-lists", MaxKeys=-1) == "InvalidArgument"
    assert refusal(main.list_objects_v2, Bucket="wrong-lists", ContinuationToken="x") == "InvalidArgument"
    assert refusal(main.list_objects, Bucket="wrong-lists", EncodingType="base64") == "InvalidArgument"
    assert refusal(main.list_object_versions, Bucket="wrong-lists", VersionIdMarker="null") == "InvalidArgument"
    assert refusal(main.list_objects, Bucket="no-such-bucket") == "NoSuchBucket"


KEYS = st.lists(st.text("ab/+ é", min_size=1, max_size=5), min_size=1, max_size=8, unique=True)


@settings(max_examples=15, deadline=None)
@given(KEYS, st.text("ab/", max_size=2), st.sampled_from(["", "/", "a"]), st.integers(1, 4))
def test_pages_of_both_versions_add_up(
    gateway: InProcessGateway, main: Any, keys: list[str], prefix: str, delimiter: str, size: int
) -> None:
    bucket = f"pages-{gateway.call(lambda: gateway.context.words.view[2])}"
    fill(main, bucket, *keys)
    expected = set()
    for key in keys:
        if key.startswith(prefix):
            place = key.find(delimiter, len(prefix)) if delimiter else -1
            expected.add(key if place < 0 else key[: place + len(delimiter)])
    for call in ("list_objects", "list_objects_v2", "list_object_versions"):
        pages = main.get_paginator(call).paginate(
            Bucket=bucket, Prefix=prefix, Delimiter=delimiter, PaginationConfig={"PageSize": size}
        )
        seen: list[str] = []
        for page in pages:
            found = names(page) + [entry["Key"] for entry in page.get("Versions", [])]
            assert len(found) <= size
            seen += sorted(found, key=str.encode)
        assert seen == sorted(expected, key=str.encode)


# -- documents


def test_tags_of_a_bucket(main: Any) -> None:
    main.create_bucket(Bucket="tagged")
    assert refusal(main.get_bucket_tagging, Bucket="tagged") == "NoSuchTagSet"
    tags = [{"Key": f"k{number:02}", "Value": "v & w"} for number in range(50)]
    main.put_bucket_tagging(Bucket="tagged", Tagging={"TagSet": tags})
    assert main.get_bucket_tagging(Bucket="tagged")["TagSet"] == tags
    twice = {"TagSet": [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}]}
    assert refusal(main.put_bucket_tagging, Bucket="tagged", Tagging=twice) == "InvalidTag"
    main.delete_bucket_tagging(Bucket="tagged")
    assert refusal(main.get_bucket_tagging, Bucket="tagged") == "NoSuchTagSet"


UNCONFIGURED = {
    "get_bucket_cors": "NoSuchCORSConfiguration",
    "get_bucket_encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "get_bucket_lifecycle_configuration": "NoSuchLifecycleConfiguration",
    "get_bucket_ownership_controls": "OwnershipControlsNotFoundError",
    "get_bucket_policy": "NoSuchBucketPolicy",
    "get_bucket_replication": "ReplicationConfigurationNotFoundError",
    "get_bucket_website": "NoSuchWebsiteConfiguration",
    "get_object_lock_configuration": "ObjectLockConfigurationNotFoundError",
    "get_public_access_block": "NoSuchPublicAccessBlockConfiguration",
}
PLAIN = ["get_bucket_versioning", "get_bucket_logging", "get_bucket_accelerate_configuration",
         "get_bucket_notification_configuration", "list_bucket_inventory_configurations"]  # fmt: skip


def test_probes_of_what_is_not_configured(main: Any) -> None:
    main.create_bucket(Bucket="plain")
    for call, code in UNCONFIGURED.items():
        assert refusal(getattr(main, call), Bucket="plain") == code
        assert refusal(getattr(main, call), Bucket="no-such-bucket") == "NoSuchBucket"
    for call in PLAIN:
        answer = getattr(main, call)(Bucket="plain")
        assert set(answer) <= {"ResponseMetadata", "IsTruncated"}
    assert main.get_bucket_request_payment(Bucket="plain")["Payer"] == "BucketOwner"
    main.delete_bucket_cors(Bucket="plain")
    enabled = {"Status": "Enabled"}
    assert refusal(main.put_bucket_versioning, Bucket="plain", VersioningConfiguration=enabled) == "NotImplemented"


# -- who may do what


def policy(effect: str, action: str | list[str], resource: str, **more: Any) -> str:
    """A policy document of one statement for everyone."""
    statement = {"Effect": effect, "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{resource}", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_policies_open_and_close_a_bucket(main: Any, other: Any, stranger: Any) -> None:
    fill(main, "policied", "open/a", "shut/b")
    assert refusal(other.get_object, Bucket="policied", Key="open/a") == "AccessDenied"
    document = policy("Allow", "s3:GetObject", "policied/open/*")
    main.put_bucket_policy(Bucket="policied", Policy=document)
    assert main.get_bucket_policy(Bucket="policied")["Policy"] == document
    assert main.get_bucket_policy_status(Bucket="policied")["PolicyStatus"]["IsPublic"]
    for client in (other, stranger):
        assert client.get_object(Bucket="policied", Key="open/a")["Body"].read() == b"open/a"
        assert refusal(client.get_object, Bucket="policied", Key="shut/b") == "AccessDenied"
        assert refusal(client.get_object, Bucket="policied", Key="shut/missing") == "AccessDenied"
        assert refusal(client.put_object, Bucket="policied", Key="open/c", Body=b"") == "AccessDenied"
        assert refusal(client.list_objects_v2, Bucket="policied") == "AccessDenied"
    main.put_bucket_policy(Bucket="policied", Policy=policy("Deny", "s3:*", "policied*"))
    assert refusal(main.get_object, Bucket="policied", Key="open/a") == "AccessDenied"
    assert refusal(other.delete_bucket_policy, Bucket="policied") == "AccessDenied"
    main.delete_bucket_policy(Bucket="policied")
    assert main.get_object(Bucket="policied", Key="open/a")["Body"].read() == b"open/a"
    assert refusal(main.put_bucket_policy, Bucket="policied", Policy="{}") == "MalformedPolicy"


def test_conditions_look_at_the_request_and_the_object(main: Any, other: Any) -> None:
    fill(main, "conditions", "k")
    shown = {"StringLike": {"s3:prefix": "public/*"}}
    main.put_bucket_policy(Bucket="conditions", Policy=policy("Allow", "s3:ListBucket", "conditions", Condition=shown))
    other.list_objects_v2(Bucket="conditions", Prefix="public/x")
    assert refusal(other.list_objects_v2, Bucket="conditions", Prefix="secret") == "AccessDenied"
    assert refusal(other.head_object, Bucket="conditions", Key="public/missing") == "404"
    assert refusal(other.head_object, Bucket="conditions", Key="secret/missing") == "403"
    tagged = {"StringEquals": {"s3:ExistingObjectTag/Level": "open"}}
    main.put_bucket_policy(
        Bucket="conditions", Policy=policy("Allow", "s3:GetObject", "conditions/*", Condition=tagged)
    )
    assert refusal(other.get_object, Bucket="conditions", Key="k") == "AccessDenied"
    main.put_object_tagging(Bucket="conditions", Key="k", Tagging={"TagSet": [{"Key": "Level", "Value": "open"}]})
    assert other.get_object(Bucket="conditions", Key="k")["Body"].read() == b"k"


def test_conditions_on_the_connection_and_the_signature_are_enforced(
    gateway: InProcessGateway, main: Any, stranger: Any
) -> None:
    fill(main, "circumstances", "k")

    def put(effect: str, condition: dict[str, Any]) -> None:
        document = policy(effect, "s3:GetObject", "circumstances/*", Condition=condition)
        main.put_bucket_policy(Bucket="circumstances", Policy=document)

    def read(client: Any) -> str:
        try:
            return str(client.get_object(Bucket="circumstances", Key="k")["Body"].read().decode())
        except ClientError as error:
            return str(error.response["Error"]["Code"])

    for peer, inside in (("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("192.0.2.1", False)):
        gateway.peer = peer
        put("Deny", {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
        assert (read(main) == "AccessDenied") == inside
        put("Allow", {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
        assert (read(stranger) != "AccessDenied") == inside
    gateway.peer = "127.0.0.1"
    put("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert read(main) == "AccessDenied"
    url = main.generate_presigned_url("get_object", Params={"Bucket": "circumstances", "Key": "k"})
    put("Deny", {"StringEquals": {"s3:authType": "REST-QUERY-STRING"}})
    assert gateway.run(gateway.answer("GET", url, []))[0].status == 403
    assert read(main) != "AccessDenied"
    put("Deny", {"StringNotEquals": {"s3:authType": "REST-QUERY-STRING"}})
    assert gateway.run(gateway.answer("GET", url, []))[0].status == 200
    assert read(main) == "AccessDenied"
    put("Deny", {"StringEquals": {"s3:signatureversion": "AWS4-HMAC-SHA256"}})
    assert read(main) == "AccessDenied"
    vpc = policy("Deny", "s3:*", "circumstances/*", Condition={"StringNotEquals": {"aws:SourceVpc": "vpc-1"}})
    with pytest.raises(ClientError, match=r"MalformedPolicy.*aws:SourceVpc"):
        main.put_bucket_policy(Bucket="circumstances", Policy=vpc)
    store = gateway.context.store
    gateway.run(store.put_document("circumstances", "policy", vpc))  # as another version may have stored it
    assert read(main) == "AccessDenied"
    main.delete_bucket_policy(Bucket="circumstances")
    assert read(main) != "AccessDenied"


def test_access_lists_of_buckets_and_objects(main: Any, other: Any, stranger: Any) -> None:
    main.create_bucket(Bucket="listed", ACL="public-read")
    main.put_object(Bucket="listed", Key="open", Body=b"o", ACL="public-read")
    main.put_object(Bucket="listed", Key="shut", Body=b"s")
    assert names(stranger.list_objects_v2(Bucket="listed")) == ["open", "shut"]
    assert stranger.get_object(Bucket="listed", Key="open")["Body"].read() == b"o"
    assert refusal(stranger.get_object, Bucket="listed", Key="shut") == "AccessDenied"
    assert refusal(stranger.get_object, Bucket="listed", Key="missing") == "NoSuchKey"
    assert refusal(stranger.put_object, Bucket="listed", Key="new", Body=b"") == "AccessDenied"
    user = other.list_buckets()["Owner"]["ID"]
    main.put_bucket_acl(Bucket="listed", GrantWrite=f"id={user}")
    other.put_object(Bucket="listed", Key="theirs", Body=b"t")
    assert refusal(other.list_objects_v2, Bucket="listed") == "AccessDenied"
    assert other.get_object(Bucket="listed", Key="theirs")["Body"].read() == b"t"
    grants = main.get_bucket_acl(Bucket="listed")["Grants"]
    assert [(grant["Grantee"]["DisplayName"], grant["Permission"]) for grant in grants] == [("other", "WRITE")]
    assert refusal(main.put_bucket_acl, Bucket="listed") == "MissingSecurityHeader"


def test_rules_of_keys(gateway: InProcessGateway, main: Any) -> None:
    fill(main, "ruled", "pub/a", "b")
    reader = gateway.client("reader", policy=(Rule("ruled/pub/*", ("read",)),))
    assert reader.get_object(Bucket="ruled", Key="pub/a")["Body"].read() == b"pub/a"
    assert refusal(reader.get_object, Bucket="ruled", Key="b") == "AccessDenied"
    assert refusal(reader.delete_object, Bucket="ruled", Key="pub/a") == "AccessDenied"
    assert refusal(reader.create_bucket, Bucket="readers-own") == "AccessDenied"
    boss = gateway.client("boss", admin=True)
    assert boss.get_object(Bucket="ruled", Key="b")["Body"].read() == b"b"
    context = gateway.context
    keys = {key.name: key.access_key for key in gateway.call(context.keyring.list)}
    may = {name: gateway.call(lambda key=key: context.may_read(key, "ruled", "b")) for name, key in keys.items()}
    assert (may["main"], may["boss"], may["reader"]) == (True, True, False)
    assert gateway.call(lambda: context.may_read(keys["reader"], "ruled", "pub/a"))
    assert not gateway.call(lambda: context.may_read(keys["main"], "no-such-bucket", "b"))


def test_preflights_and_unknown_calls(gateway: InProcessGateway, tmp_path: Path) -> None:
    url = f"http://{DOMAIN}/plain"
    assert gateway.run(gateway.answer("OPTIONS", url, []))[0].status == 400
    assert gateway.run(gateway.answer("OPTIONS", url, [(b"origin", b"http://x")]))[0].status == 403
    assert gateway.run(gateway.answer("PATCH", url, []))[0].status == 405
    response, body = gateway.run(gateway.answer("GET", f"http://{DOMAIN}/no-such-bucket/k", []))
    assert (response.status, b"<Code>NoSuchBucket</Code>" in body) == (404, True)
    assert str(tmp_path) not in body.decode()
