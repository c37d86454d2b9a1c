"""The embedded store against a dictionary: any history of writes leaves both with the same contents.

Two openings of one store take turns, as two processes would, and are closed and opened in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from headrace.base.errors import Conflict, HeadraceError, Invalid, NotFound
from headrace.model.objects import NO_CONDITIONS, Attributes, Conditions
from headrace.origin.base import Upload
from headrace.origin.complete import CompletePart
from headrace.origin.rows import unpack_pieces
from headrace.origin.store import Store
from headrace.testing.origin_calls import broken, every_page, read, upload

KEYS = st.text(st.sampled_from("ab/-0\0é\U0001f600"), min_size=1, max_size=6)
BODIES = st.integers(0, 3).flatmap(lambda kind: st.binary(max_size=(0, 9, 300, 90_000)[kind]))
TAGS = st.dictionaries(st.sampled_from("xyz"), st.text(max_size=3), max_size=2)
MEMORY = Path("/dev/shm")
"""What is tested here is no durability, and an fsync in memory is free."""
FIVE_MIB = bytes(5 * 1024 * 1024)


class Kept(NamedTuple):
    """What the model knows of one object."""

    body: bytes
    etag: str
    tags: dict[str, str]


def etag_of(body: bytes) -> str:
    """ETag of a body put in one piece."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class StoreAgainstDictionary(RuleBasedStateMachine):
    """Rules are calls of the store; the model is `self.objects`, by (bucket, key)."""

    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-model-", dir=MEMORY if MEMORY.is_dir() else None))
        self.stores = [Store.open(self.folder / "store") for _ in range(2)]
        self.objects: dict[tuple[str, str], Kept] = {}
        self.parts: dict[str, dict[int, bytes]] = {}

    @initialize()
    def two_buckets(self) -> None:
        """Both buckets exist from the start."""
        for name in ("one", "two"):
            self.run(self.stores[0].create_bucket(name))

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Await a call."""
        return self.loop.run_until_complete(call)

    def fails(self, call: Coroutine[Any, Any, Any], error: type[HeadraceError]) -> None:
        """Await a call that must raise."""
        try:
            self.run(call)
        except error:
            return
        raise AssertionError(f"{error.__name__} was due")

    @rule(which=st.integers(0, 1), bucket=st.sampled_from(["one", "two"]), key=KEYS, body=BODIES, tags=TAGS)
    def put(self, which: int, bucket: str, key: str, body: bytes, tags: dict[str, str]) -> None:
        """An unconditional write."""
        info = self.run(self.stores[which].bucket(bucket).put(key, upload(body, Attributes(tags=tags), 10_000)))
        assert (info.etag, info.size) == (etag_of(body), len(body))
        self.objects[bucket, key] = Kept(body, info.etag, tags)

    @rule(which=st.integers(0, 1), key=KEYS, body=BODIES, create=st.booleans(), etag=st.none() | BODIES.map(etag_of))
    def conditional_put(self, which: int, key: str, body: bytes, create: bool, etag: str | None) -> None:
        """Create-if-absent, or replace-if-same (with the present ETag, or some other)."""
        present = self.objects.get(("one", key))
        if create:
            conditions, error = Conditions(if_none_match=("*",)), Conflict if present else None
        else:
            wanted = etag or (present.etag if present else "x")
            conditions = Conditions(if_match=(wanted,))
            error = NotFound if present is None else Conflict if present.etag != wanted else None
        call = self.stores[which].bucket("one").put(key, upload(body), conditions)
        if error is not None:
            self.fails(call, error)
        else:
            self.run(call)
            self.objects["one", key] = Kept(body, etag_of(body), {})

    @rule(which=st.integers(0, 1), key=KEYS, body=BODIES)
    def broken_put(self, which: int, key: str, body: bytes) -> None:
        """A body that breaks off changes nothing."""
        self.fails(self.stores[which].bucket("one").put(key, Upload(broken(body, Invalid("cut off")))), Invalid)

    @rule(which=st.integers(0, 1), bucket=st.sampled_from(["one", "two"]), data=st.data(), other=KEYS)
    def delete(self, which: int, bucket: str, data: st.DataObject, other: str) -> None:
        """Remove an object that is there, or one that may not be."""
        known = sorted(key for name, key in self.objects if name == bucket)
        key = data.draw(st.sampled_from([*known, other]))
        self.run(self.stores[which].bucket(bucket).delete(key))
        self.objects.pop((bucket, key), None)

    @rule(which=st.integers(0, 1), data=st.data(), bucket=st.sampled_from(["one", "two"]), key=KEYS, onto=st.booleans())
    def copy(self, which: int, data: st.DataObject, bucket: str, key: str, onto: bool) -> None:
        """Copy an object, perhaps onto another or onto itself."""
        if not self.objects:
            return
        name, source = data.draw(st.sampled_from(sorted(self.objects)))
        if onto:
            bucket, key = data.draw(st.sampled_from(sorted(self.objects)))
        store = self.stores[which]
        self.run(store.bucket(bucket).copy_from(store.bucket(name), source, key))
        self.objects[bucket, key] = self.objects[name, source]

    @rule(which=st.integers(0, 1), data=st.data(), tags=TAGS)
    def tag(self, which: int, data: st.DataObject, tags: dict[str, str]) -> None:
        """Replace the tags of an object."""
        if self.objects:
            bucket, key = data.draw(st.sampled_from(sorted(self.objects)))
            self.run(self.stores[which].bucket(bucket).set_tags(key, tags))
            self.objects[bucket, key] = self.objects[bucket, key]._replace(tags=tags)

    @rule(target=uploads, which=st.integers(0, 1), key=KEYS)
    def create_upload(self, which: int, key: str) -> Any:
        """Begin an upload."""
        if len(self.parts) > 3:
            return multiple()
        upload_id = self.run(self.stores[which].bucket("one").create_upload(key))
        self.parts[upload_id] = {}
        return key, upload_id

    @rule(which=st.integers(0, 1), entry=uploads, number=st.integers(1, 3), tail=BODIES, long=st.booleans())
    def put_part(self, which: int, entry: tuple[str, str], number: int, tail: bytes, long: bool) -> None:
        """Send a part, perhaps again, perhaps of an upload that is gone."""
        body = (FIVE_MIB if long else b"") + tail
        call = self.stores[which].bucket("one").put_part(entry[1], number, upload(body, size=1 << 20))
        if entry[1] not in self.parts:
            self.fails(call, NotFound)
        else:
            self.run(call)
            self.parts[entry[1]][number] = body

    @rule(which=st.integers(0, 1), entry=uploads, again=st.booleans())
    def complete_upload(self, which: int, entry: tuple[str, str], again: bool) -> None:
        """Complete with all parts sent; small parts in the middle and no parts at all are refused."""
        key, upload_id = entry
        if upload_id not in self.parts:
            return
        parts = sorted(self.parts[upload_id].items())
        named = [CompletePart(number, etag_of(body)) for number, body in parts]
        call = self.stores[which].bucket("one").complete_upload(key, upload_id, named)
        if not parts or any(len(body) < len(FIVE_MIB) for _, body in parts[:-1]):
            self.fails(call, Invalid)
            return
        info = self.run(call)
        if again:
            assert self.run(self.stores[1 - which].bucket("one").complete_upload(key, upload_id, named)) == info
        self.objects["one", key] = Kept(b"".join(body for _, body in parts), info.etag, {})
        del self.parts[upload_id]

    @rule(which=st.integers(0, 1), entry=uploads)
    def abort_upload(self, which: int, entry: tuple[str, str]) -> None:
        """Give an upload up."""
        call = self.stores[which].bucket("one").abort_upload(entry[1])
        if self.parts.pop(entry[1], None) is None:
            self.fails(call, NotFound)
        else:
            self.run(call)

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        """Close one of the openings and open it again."""
        self.stores[which].close()
        self.stores[which] = Store.open(self.folder / "store")

    @rule(data=st.data(), which=st.integers(0, 1))
    def read_range(self, data: st.DataObject, which: int) -> None:
        """Any range of any object is the same slice of the model's."""
        if self.objects:
            bucket, key = data.draw(st.sampled_from(sorted(self.objects)))
            body = self.objects[bucket, key].body
            start = data.draw(st.integers(0, max(0, len(body) - 1)))
            stop = data.draw(st.integers(start + 1, len(body) + 5))
            if body:
                assert self.run(read(self.stores[which].bucket(bucket), key, start, stop)) == body[start:stop]

    @rule(which=st.integers(0, 1), prefix=st.sampled_from(["", "a", "a/", "b-"]), limit=st.integers(1, 5))
    def list_with_delimiter(self, which: int, prefix: str, limit: int) -> None:
        """Keys and common prefixes, page by page."""
        below = sorted(
            (key for bucket, key in self.objects if bucket == "one" and key.startswith(prefix)), key=str.encode
        )
        plain = [key for key in below if "/" not in key[len(prefix) :]]
        common = {prefix + key[len(prefix) :].split("/")[0] + "/" for key in below if "/" in key[len(prefix) :]}
        found = self.run(every_page(self.stores[which].bucket("one"), limit, prefix, "/"))
        assert found == (plain, sorted(common, key=str.encode))

    @invariant()
    def contents_agree(self) -> None:
        """Both openings list what the model holds, with its ETags, sizes and tags, and one body is right."""
        for store in self.stores:
            for bucket in ("one", "two"):
                if store.bucket_now(bucket) is None:
                    return
                page = self.run(store.bucket(bucket).list())
                expected = sorted((key.encode(), kept) for (name, key), kept in self.objects.items() if name == bucket)
                assert [(info.key.encode(), info.etag, info.size, info.attributes.tags) for info in page.objects] == [
                    (key, kept.etag, len(kept.body), kept.tags) for key, kept in expected
                ]

    def teardown(self) -> None:
        """Read every body, and see that no file is left that no object or part needs."""
        for (bucket, key), kept in self.objects.items():
            assert self.run(read(self.stores[0].bucket(bucket), key, conditions=NO_CONDITIONS)) == kept.body
        needed = self.stores[0]._engine.read_now(
            lambda db: {
                piece.name
                for table in ("objects", "parts")
                for (extents,) in db.execute(f"SELECT extents FROM {table}")
                for piece in unpack_pieces(extents)
            }
        )
        for store in self.stores:
            store.close()
        files = {file.name for file in (self.folder / "store" / "bodies").glob("*/*")}
        assert files == needed
        self.loop.close()
        shutil.rmtree(self.folder)


TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
TestStoreAgainstDictionary.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
