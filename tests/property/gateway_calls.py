"""The calls that a history of a gateway is made of, each judged by dictionaries."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import pytest
from botocore.exceptions import ClientError
from gateway_model import BORDERS, LARGE, PARTS, SMALL, Bucket, Object, UploadModel, body_of, etag_of, in_order
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from headrace.base.limits import PART_BYTES_MIN

STORE, FOLDER, REMOTE = "own-store", "own-folder", "own-remote"
NAMES = ("plain", "dir/one", "dir/two", "dir/sub/three", "dir-x", "ümlaut ☃", "sp ace+100%25&=?#")
STORE_NAMES = (*NAMES, "dir", "dir/", "/", "a//b", "..", "../x")
REMOTE_NAMES = tuple(name for name in NAMES if name != "dir-x")
"""The S3 server lists `dir/two` before `dir-x`, which is not the order of bytes."""

bodies = st.builds(body_of, st.sampled_from(SMALL * 3 + LARGE), st.integers(0, 999))
metadata = st.dictionaries(st.sampled_from(["a", "colour", "x-y"]), st.sampled_from(["1", "blue", "with space"]))
tag_sets = st.dictionaries(st.sampled_from(["team", "k y"]), st.sampled_from(["", "data", "a+b=c"]))
buckets = st.sampled_from([STORE, FOLDER, REMOTE, REMOTE])
data = st.data()


class World(Protocol):
    """Where histories take place."""

    client: Any

    def new_prefix(self) -> str:
        """A prefix that no history had before."""


class GatewayCalls(RuleBasedStateMachine):
    """One history of calls; its keys begin with a prefix of its own. Subclasses say what `world` is."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.prefix = self.world.new_prefix()
        self.buckets = {name: Bucket() for name in (STORE, FOLDER, REMOTE)}

    @property
    def client(self) -> Any:
        return self.world.client

    def call(self, operation: str, bucket: str, name: str | None = None, **arguments: Any) -> dict[str, Any]:
        if name is not None:
            arguments["Key"] = self.prefix + name
        return getattr(self.client, operation)(Bucket=bucket, **arguments)

    def refused(self, codes: set[str], operation: str, bucket: str, name: str | None = None, **arguments: Any) -> None:
        with pytest.raises(ClientError) as caught:
            self.call(operation, bucket, name, **arguments)
        assert caught.value.response["Error"]["Code"] in codes

    def draw_name(self, choice: st.DataObject, bucket: str) -> str:
        return choice.draw(st.sampled_from({STORE: STORE_NAMES, FOLDER: NAMES, REMOTE: REMOTE_NAMES}[bucket]))

    def draw_object(self, choice: st.DataObject) -> tuple[str, str, Object]:
        """(bucket, name, object) of something that exists."""
        bucket = choice.draw(st.sampled_from([name for name, found in self.buckets.items() if found.objects]))
        name = choice.draw(st.sampled_from(in_order(self.buckets[bucket].objects)))
        return bucket, name, self.buckets[bucket].objects[name]

    def any_object(self) -> bool:
        return any(found.objects for found in self.buckets.values())

    def matches(self, answer: dict[str, Any], found: Object) -> None:
        """Whether an answer's headers tell of this object."""
        if found.metadata is not None:
            assert answer["Metadata"] == found.metadata
        if found.content_type is not None:
            assert answer["ContentType"] == found.content_type
        if found.etag is None:
            found.etag = answer["ETag"]
        assert answer["ETag"] == found.etag

    # -- writes

    @rule(choice=data, bucket=buckets, body=bodies, kept=metadata, tags=tag_sets, typed=st.booleans())
    def put(
        self, choice: st.DataObject, bucket: str, body: bytes, kept: dict[str, str], tags: dict[str, str], typed: bool
    ) -> None:
        name = self.draw_name(choice, bucket)
        if bucket == FOLDER and name.endswith("/"):
            return
        self.put_with({}, bucket, name, body, kept, tags, typed)

    def put_with(
        self,
        conditions: dict[str, str],
        bucket: str,
        name: str,
        body: bytes,
        kept: dict[str, str],
        tags: dict[str, str],
        typed: bool,
    ) -> None:
        arguments: dict[str, Any] = {"Body": body, "Metadata": kept, **conditions}
        if typed:
            arguments["ContentType"] = "text/x-thing"
        if tags:
            pairs = {key: value.replace("+", "%2B").replace("=", "%3D") for key, value in tags.items()}
            arguments["Tagging"] = "&".join(f"{key.replace(' ', '%20')}={value}" for key, value in pairs.items())
        answer = self.call("put_object", bucket, name, **arguments)
        assert answer["ETag"] == etag_of(body)
        content_type = "text/x-thing" if typed else None
        self.buckets[bucket].objects[name] = Object(body, kept, tags, content_type, answer["ETag"])

    @rule(choice=data, bucket=buckets, body=bodies)
    def put_if_absent(self, choice: st.DataObject, bucket: str, body: bytes) -> None:
        name = self.draw_name(choice, bucket)
        condition = {"IfNoneMatch": "*"}
        if name in self.buckets[bucket].objects:
            self.refused({"PreconditionFailed"}, "put_object", bucket, name, Body=body, **condition)
        else:
            self.put_with(condition, bucket, name, body, {}, {}, typed=False)

    @precondition(any_object)
    @rule(choice=data, body=bodies, right=st.booleans())
    def put_if_match(self, choice: st.DataObject, body: bytes, right: bool) -> None:
        bucket, name, found = self.draw_object(choice)
        if not right:
            self.refused({"PreconditionFailed"}, "put_object", bucket, name, Body=body, IfMatch='"0123"')
        elif found.etag is not None:
            self.put_with({"IfMatch": found.etag}, bucket, name, body, {}, {}, typed=False)

    @rule(choice=data, bucket=buckets)
    def delete(self, choice: st.DataObject, bucket: str) -> None:
        name = self.draw_name(choice, bucket)
        self.call("delete_object", bucket, name)
        self.buckets[bucket].objects.pop(name, None)

    @rule(choice=data, bucket=buckets)
    def delete_many(self, choice: st.DataObject, bucket: str) -> None:
        names = choice.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
        wanted = {"Objects": [{"Key": self.prefix + name} for name in names]}
        answer = self.call("delete_objects", bucket, Delete=wanted)
        assert not answer.get("Errors")
        for name in names:
            self.buckets[bucket].objects.pop(name, None)

    @precondition(any_object)
    @rule(choice=data, bucket=buckets, kept=metadata, replace=st.booleans())
    def copy(self, choice: st.DataObject, bucket: str, kept: dict[str, str], replace: bool) -> None:
        source_bucket, source, found = self.draw_object(choice)
        name = self.draw_name(choice, bucket)
        arguments: dict[str, Any] = {"CopySource": {"Bucket": source_bucket, "Key": self.prefix + source}}
        if replace:
            arguments |= {"MetadataDirective": "REPLACE", "Metadata": kept}
        if (source_bucket, source) == (bucket, name) and not replace:
            self.refused({"InvalidRequest"}, "copy_object", bucket, name, **arguments)
            return
        answer = self.call("copy_object", bucket, name, **arguments)
        content_type = None if replace else found.content_type
        tags = None if source_bucket == REMOTE != bucket else found.tags  # a server's tags do not leave it
        copied = Object(found.body, kept if replace else found.metadata, tags, content_type)
        copied.etag = (
            '"' + answer["CopyObjectResult"]["ETag"].strip('"') + '"'
        )  # an origin's answer may lack the quotes
        self.buckets[bucket].objects[name] = copied

    # -- reads

    @precondition(any_object)
    @rule(choice=data, times=st.integers(1, 3), general=st.booleans())
    def get(self, choice: st.DataObject, times: int, general: bool) -> None:
        """Read it plainly (what is warm takes the hot path), or with a condition that the hot path leaves to others."""
        bucket, name, found = self.draw_object(choice)
        conditions = {"IfNoneMatch": '"other"'} if general else {}
        for _ in range(times):
            answer = self.call("get_object", bucket, name, **conditions)
            assert answer["Body"].read() == found.body
            self.matches(answer, found)

    @precondition(any_object)
    @rule(choice=data, general=st.booleans(), form=st.sampled_from(["closed", "open", "last"]))
    def get_range(self, choice: st.DataObject, general: bool, form: str) -> None:
        bucket, name, found = self.draw_object(choice)
        size = len(found.body)
        conditions = {"IfNoneMatch": '"other"'} if general else {}
        first = choice.draw(st.sampled_from([edge for edge in BORDERS if edge <= size + 1]))
        length = choice.draw(st.sampled_from(BORDERS[1:]))
        text, start = (f"-{length}", max(0, size - length)) if form == "last" else (f"{first}-", first)
        stop = min(size, first + length) if form == "closed" else size
        if form == "closed":
            text += str(first + length - 1)
        if start >= size:
            if size or form != "last":
                self.refused({"InvalidRange"}, "get_object", bucket, name, Range=f"bytes={text}", **conditions)
            return
        answer = self.call("get_object", bucket, name, Range=f"bytes={text}", **conditions)
        assert answer["Body"].read() == found.body[start:stop]
        assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/{size}"
        self.matches(answer, found)

    @precondition(any_object)
    @rule(choice=data)
    def head(self, choice: st.DataObject) -> None:
        bucket, name, found = self.draw_object(choice)
        answer = self.call("head_object", bucket, name)
        assert answer["ContentLength"] == len(found.body)
        self.matches(answer, found)
        if found.tags is not None and bucket != FOLDER:  # a folder's tags cannot be asked for
            told = self.call("get_object_tagging", bucket, name)["TagSet"]
            assert {tag["Key"]: tag["Value"] for tag in told} == found.tags

    @precondition(any_object)
    @rule(choice=data)
    def get_on_condition(self, choice: st.DataObject) -> None:
        bucket, name, found = self.draw_object(choice)
        if found.etag is None:
            return
        assert self.call("get_object", bucket, name, IfMatch=found.etag)["Body"].read() == found.body
        self.refused({"PreconditionFailed"}, "get_object", bucket, name, IfMatch='"0123"')
        self.refused({"304"}, "get_object", bucket, name, IfNoneMatch=found.etag)

    @rule(choice=data, bucket=buckets)
    def get_what_is_not(self, choice: st.DataObject, bucket: str) -> None:
        name = self.draw_name(choice, bucket)
        if name not in self.buckets[bucket].objects:
            self.refused({"NoSuchKey"}, "get_object", bucket, name)
            self.refused({"404"}, "head_object", bucket, name)

    @rule(
        bucket=buckets,
        prefix=st.sampled_from(["", "dir", "dir/", "dir/s", "sp", "ü", "none"]),
        delimiter=st.sampled_from(["", "/"]),
        size=st.sampled_from([1, 2, 3, 1000]),
        second=st.booleans(),
    )
    def list(self, bucket: str, prefix: str, delimiter: str, size: int, second: bool) -> None:
        pages = self.client.get_paginator("list_objects_v2" if second else "list_objects").paginate(
            Bucket=bucket, Prefix=self.prefix + prefix, Delimiter=delimiter, PaginationConfig={"PageSize": size}
        )
        names, sizes = [], {}
        for page in pages:
            found = [(item["Key"], False) for item in page.get("Contents", ())]
            found += [(item["Prefix"], True) for item in page.get("CommonPrefixes", ())]
            assert len(found) <= size
            names += sorted(found, key=lambda item: item[0].encode())
            sizes |= {item["Key"]: item["Size"] for item in page.get("Contents", ())}
        cut = len(self.prefix)
        told = [(name[cut:], rolled) for name, rolled in names]
        wanted = [*self.buckets[bucket].listed(prefix, delimiter)]
        if bucket == REMOTE:  # the server shows folders for a while after what was in them is gone
            told = [item for item in told if item in wanted or not (item[0] == "" or item[0].endswith("/"))]
        assert told == wanted
        there = self.buckets[bucket].objects
        assert all(sizes[self.prefix + name] == len(there[name].body) for name, rolled in told if not rolled)

    # -- uploads in parts

    @rule(choice=data, bucket=buckets, kept=metadata)
    def begin_upload(self, choice: st.DataObject, bucket: str, kept: dict[str, str]) -> None:
        if len(self.buckets[bucket].uploads) < 2:
            name = self.draw_name(choice, bucket)
            upload = self.call("create_multipart_upload", bucket, name, Metadata=kept)["UploadId"]
            self.buckets[bucket].uploads[upload] = UploadModel(name, kept)

    def any_upload(self) -> bool:
        return any(found.uploads for found in self.buckets.values())

    def draw_upload(self, choice: st.DataObject) -> tuple[str, str, UploadModel]:
        bucket = choice.draw(st.sampled_from([name for name, found in self.buckets.items() if found.uploads]))
        uploads = [*self.buckets[bucket].uploads]
        upload = uploads[choice.draw(st.integers(0, len(uploads) - 1))]
        return bucket, upload, self.buckets[bucket].uploads[upload]

    @precondition(any_upload)
    @rule(choice=data, number=st.integers(1, 3), body=st.builds(body_of, st.sampled_from(PARTS), st.integers(0, 9)))
    def put_part(self, choice: st.DataObject, number: int, body: bytes) -> None:
        bucket, upload, model = self.draw_upload(choice)
        answer = self.call("upload_part", bucket, model.key, UploadId=upload, PartNumber=number, Body=body)
        assert answer["ETag"] == etag_of(body)
        model.parts[number] = (answer["ETag"], body)

    @precondition(any_upload)
    @rule(choice=data)
    def complete_upload(self, choice: st.DataObject) -> None:
        bucket, upload, model = self.draw_upload(choice)
        parts = sorted(model.parts.items())
        told = self.call("list_parts", bucket, model.key, UploadId=upload).get("Parts", [])
        listed = [(part["PartNumber"], part["ETag"]) for part in told]
        wanted = [(number, etag) for number, (etag, _) in parts]
        assert (
            set(wanted) <= set(listed) if bucket == REMOTE else wanted == listed
        )  # the server lists replaced ones too
        if not parts:
            return
        named = {"Parts": [{"PartNumber": number, "ETag": etag} for number, (etag, _) in parts]}
        arguments = {"UploadId": upload, "MultipartUpload": named}
        if any(len(body) < PART_BYTES_MIN for _, (_, body) in parts[:-1]):
            self.refused({"EntityTooSmall"}, "complete_multipart_upload", bucket, model.key, **arguments)
            return
        answer = self.call("complete_multipart_upload", bucket, model.key, **arguments)
        body = b"".join(body for _, (_, body) in parts)
        self.buckets[bucket].objects[model.key] = Object(body, model.metadata, {}, None, answer["ETag"])
        del self.buckets[bucket].uploads[upload]

    @precondition(any_upload)
    @rule(choice=data)
    def abort_upload(self, choice: st.DataObject) -> None:
        bucket, upload, model = self.draw_upload(choice)
        self.call("abort_multipart_upload", bucket, model.key, UploadId=upload)
        del self.buckets[bucket].uploads[upload]
        self.refused({"NoSuchUpload"}, "list_parts", bucket, model.key, UploadId=upload)
