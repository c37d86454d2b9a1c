"""DeleteObjects at a real S3 server: however the document is written, only the keys it was judged by go."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from object_world import Answer, World

from headrace.base.errors import NotFound
from headrace.gateway.context import PROXY, BucketTarget
from headrace.gateway.keyring import parse_rule
from headrace.model.bindings import Binding
from headrace.origin.base import Origin
from headrace.origin.s3 import S3Account, S3Origin
from headrace.testing.origins import upload
from headrace.testing.servers import S3Server
from headrace.wire.words import stripe


def bind(world: World, bucket: str, origin: Origin) -> None:
    """Bind a bucket to an S3 origin."""
    binding = Binding(len(world.bound.targets) + 1, bucket, origin.url)
    world.bound.targets[bucket] = BucketTarget(bucket=bucket, origin=origin, kind=PROXY, binding=binding)


@pytest_asyncio.fixture
async def world(tmp_path: Path, s3_server: S3Server) -> AsyncIterator[World]:
    """`deletions` is a bucket of the server, `mine` a prefix of it."""
    account = S3Account(s3_server.url())
    if "deletions" not in await account.buckets():
        await account.client.answer("PUT", "", raw_path="deletions")
    world = World(tmp_path)
    part = S3Origin(s3_server.url("deletions", "pre%20fix"))
    bind(world, "deletions", account.origin("deletions"))
    bind(world, "mine", part)
    yield world
    await part.close()
    await account.close()
    world.close()


async def delete(world: World, bucket: str, document: bytes, access_key: str = "ADMIN") -> Answer:
    """Send a DeleteObjects document."""
    md5 = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
    return await world.call("POST", f"/{bucket}?delete", {"content-md5": md5}, document, access_key=access_key)


async def exists(origin: Origin, key: str) -> bool:
    """Whether the server has an object."""
    try:
        await origin.head(key)
    except NotFound:
        return False
    return True


SPELLINGS = {
    "plain": "<Delete><Object><Key>victim &amp; co</Key></Object></Delete>",
    "space": "<Delete><Object><Key >victim &amp; co</Key ></Object></Delete>",
    "attribute": '<Delete><Object><Key a="b">victim &amp; co</Key></Object></Delete>',
    "cdata": "<Delete><Object><Key><![CDATA[victim & co]]></Key></Object></Delete>",
    "namespace": '<s:Delete xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/"><s:Object><s:Key>victim &amp; co</s:Key>'
    "</s:Object></s:Delete>",
    "reference": "<Delete><Object><Key>victi&#109; &#x26; co</Key></Object></Delete>",
    "comment": "<Delete><Object><Key>victim<!-- <Key>x</Key> --> &amp; co</Key></Object></Delete>",
    "utf-16": '<?xml version="1.0" encoding="UTF-16"?><Delete><Object><Key>victim &amp; co</Key></Object></Delete>',
}


@pytest.mark.parametrize("bucket", ["deletions", "mine"])
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_key_means_the_same_however_it_is_written(world: World, bucket: str, spelling: str) -> None:
    origin = world.bound.targets["deletions"].origin
    for key in ("victim & co", "pre fix/victim & co"):
        await origin.put(key, upload(b"x"))
    before = world.context.words.view[stripe(bucket, "victim & co")]
    document = SPELLINGS[spelling].encode("utf-16" if spelling == "utf-16" else "utf-8")
    answer = await delete(world, bucket, document)
    assert answer.status == 200
    assert answer.texts("Deleted/Key") == ["victim & co"]
    assert await exists(origin, "victim & co") == (bucket == "mine")
    assert await exists(origin, "pre fix/victim & co") == (bucket == "deletions")
    assert world.context.words.view[stripe(bucket, "victim & co")] != before


async def test_every_key_is_judged(world: World) -> None:
    """A rule that matches the key `*` itself is no leave to delete anything."""
    world.keyring.create("narrow", [parse_rule("deletions/?:write"), parse_rule("mine/?:write")], access_key="NARROW")
    for bucket in ("deletions", "mine"):
        origin = world.bound.targets[bucket].origin
        for key in ("k", "long"):
            await origin.put(key, upload(b"x"))
        document = b"<Delete><Object><Key>k</Key></Object><Object><Key>long</Key></Object></Delete>"
        answer = await delete(world, bucket, document, "NARROW")
        assert answer.texts("Deleted/Key") == ["k"]
        assert answer.texts("Error/Key") == ["long"]
        assert answer.texts("Error/Code") == ["AccessDenied"]
        assert not await exists(origin, "k")
        assert await exists(origin, "long")
        nothing = await delete(world, bucket, b"<Delete><Object><Key>long</Key></Object></Delete>", "NARROW")
        assert (nothing.status, nothing.texts("Error/Code")) == (200, ["AccessDenied"])


async def test_a_quiet_delete_tells_errors_only(world: World) -> None:
    await world.bound.targets["mine"].origin.put("k", upload(b"x"))
    document = b"<Delete><Quiet>true</Quiet><Object><Key>k</Key></Object><Object><Key></Key></Object></Delete>"
    answer = await delete(world, "mine", document)
    assert answer.texts("Deleted/Key") == []
    assert answer.texts("Error/Code") == ["InvalidURI"]
    assert not await exists(world.bound.targets["mine"].origin, "k")


async def test_what_is_no_list_of_keys_is_refused(world: World) -> None:
    for document, code in (
        (b"<Delete/>", "MalformedXML"),
        (b"<Delete><Object><Key>k</Key><Key>l</Key></Object></Delete>", "MalformedXML"),
        (b'<!DOCTYPE x [<!ENTITY e "k">]><Delete><Object><Key>&e;</Key></Object></Delete>', "MalformedXML"),
        (b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>", "MalformedXML"),
    ):
        assert (await delete(world, "mine", document)).code == code
    plain = b"<Delete><Object><Key>k</Key></Object></Delete>"
    assert (await world.call("POST", "/mine?delete", {}, plain)).code == "InvalidRequest"


async def test_a_prefix_shows_only_its_own_listings(world: World) -> None:
    origin = world.bound.targets["deletions"].origin
    await origin.put("other/secret", upload(b"x"))
    await world.bound.targets["mine"].origin.put("other/own", upload(b"x"))
    for query in (
        "inventory&list-type=2&prefix=other/", "location&list-type=2&prefix=other/", "policy", "acl", "metadata=true",
        "accelerate&prefix=other/", "notification&prefix=other/&events=s3", "list-type=2&prefix=other/&policyStatus",
        "intelligent-tiering&prefix=other/", "metrics&list-type=2", "analytics&list-type=2", "delete&list-type=2",
    ):  # fmt: skip
        answer = await world.call("GET", f"/mine?{query}")
        assert b"secret" not in answer.body, query
        assert answer.status >= 400, query
    for query in (
        "list-type=2&prefix=other/",
        "prefix=other/",
        "prefix=other/&marker=other/a",
        "versions&prefix=other/",
    ):
        answer = await world.call("GET", f"/mine?{query}")
        assert (answer.status, b"secret" in answer.body) == (200, False), query
        if "versions" not in query:
            assert answer.texts("Contents/Key") == ["other/own"]
    for query in ("location", "uploads", "uploads&prefix=x"):
        assert (await world.call("GET", f"/mine?{query}")).status == 200, query
    assert (await world.call("HEAD", "/mine")).status == 200


async def test_calls_that_name_another_object_in_a_document_or_header_are_refused(world: World) -> None:
    await world.bound.targets["deletions"].origin.put("victim", upload(b"x"))
    place = b"<S3><BucketName>elsewhere</BucketName><Prefix>x</Prefix></S3>"
    restore = b"<RestoreRequest><Type>SELECT</Type><OutputLocation>%b</OutputLocation></RestoreRequest>" % place
    for bucket in ("mine", "deletions"):
        answer = await world.call("POST", f"/{bucket}/k?restore", {}, restore)
        assert answer.code == "NotImplemented"
        renamed = await world.call("PUT", f"/{bucket}/k?renameObject", {"x-amz-rename-source": "/deletions/victim"})
        assert renamed.code == "NotImplemented"
    assert await exists(world.bound.targets["deletions"].origin, "victim")


@pytest.mark.parametrize("key", ["../victim", "a/../../victim", "./../victim"])
async def test_dots_do_not_lead_out_of_a_prefix(world: World, key: str) -> None:
    origin = world.bound.targets["deletions"].origin
    await origin.put("victim", upload(b"x"))
    await delete(world, "mine", f"<Delete><Object><Key>{key}</Key></Object></Delete>".encode())
    await world.call("DELETE", f"/mine/{key}?versionId=null")
    await world.call("PUT", f"/mine/{key}?tagging", {}, b"<Tagging><TagSet></TagSet></Tagging>")
    assert await exists(origin, "victim")
