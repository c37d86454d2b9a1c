"""The embedded store beyond the origin promise: buckets, documents, copies, words, reopening, sweeping."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from headrace.base.errors import Busy, Conflict, Invalid, NotFound
from headrace.base.limits import STORE_GROUP_WRITES_MAX
from headrace.model.objects import Attributes, Conditions
from headrace.origin.bodies import SHARD
from headrace.origin.rows import list_objects
from headrace.origin.store import Store
from headrace.testing.origin_calls import bodies_left, body_files, fails, read, upload
from headrace.wire.words import BINDINGS, Words, stripe


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A fresh store with the buckets `one` and `two`."""
    opened = Store.open(tmp_path / "store")
    await opened.create_bucket("one", "ann")
    await opened.create_bucket("two", "bob", {"region": "north"})
    yield opened
    opened.close()


async def test_buckets(store: Store) -> None:
    """Buckets are made once, listed by name, and go only when they are empty."""
    assert [(info.name, info.owner) for info in await store.buckets()] == [("one", "ann"), ("two", "bob")]
    assert (await store.bucket_info("two")).attributes == {"region": "north"}
    await fails("BucketAlreadyOwnedByYou", Conflict, store.create_bucket("one", "ann"))
    await fails("BucketAlreadyExists", Conflict, store.create_bucket("one", "bob"))
    await store.bucket("one").put("k", upload(b"x"))
    await fails("BucketNotEmpty", Conflict, store.delete_bucket("one"))
    await store.bucket("one").delete("k")
    await store.delete_bucket("one")
    assert store.bucket_now("one") is None
    await fails("NoSuchBucket", NotFound, store.bucket_info("one"))
    await fails("NoSuchBucket", NotFound, store.delete_bucket("one"))
    gone = store.bucket("one")
    await fails("NoSuchBucket", NotFound, gone.put("k", upload(b"x")))
    await fails("NoSuchBucket", NotFound, gone.head("k"))
    await fails("NoSuchBucket", NotFound, gone.delete("k"))
    await fails("NoSuchBucket", NotFound, gone.list())
    await fails("NoSuchBucket", NotFound, gone.create_upload("k"))


async def test_a_deleted_bucket_takes_its_uploads_along(store: Store, tmp_path: Path) -> None:
    """A bucket made again under the same name knows nothing of the old one."""
    bucket = store.bucket("one")
    upload_id = await bucket.create_upload("k")
    await bucket.put_part(upload_id, 1, upload(b"part"))
    await store.put_document("one", "policy", "{}")
    await store.delete_bucket("one")
    await store.create_bucket("one", "ann")
    assert await store.get_document("one", "policy") is None
    assert (await bucket.list_uploads()).uploads == ()
    await fails("NoSuchUpload", NotFound, bucket.put_part(upload_id, 2, upload(b"part")))
    await bodies_left(tmp_path / "store", 0)


async def test_documents(store: Store) -> None:
    """Bucket-level documents are kept by kind."""
    assert await store.get_document("one", "policy") is None
    await store.put_document("one", "policy", "first")
    await store.put_document("one", "policy", "second")
    await store.put_document("one", "cors", "other")
    assert await store.get_document("one", "policy") == "second"
    await store.delete_document("one", "policy")
    await store.delete_document("one", "policy")
    assert (store.document_now("one", "policy"), store.document_now("one", "cors")) == (None, "other")
    await fails("NoSuchBucket", NotFound, store.get_document("none", "policy"))
    await fails("NoSuchBucket", NotFound, store.put_document("none", "policy", "x"))
    await fails("InvalidRequest", Invalid, store.put_document("one", "policy", "x" * 300_000))


async def test_attributes_change_without_the_bytes(store: Store) -> None:
    """Tags and ACL are replaced alone; the version shows it, the date does not move."""
    bucket = store.bucket("one")
    first = await bucket.put("k", upload(b"x", Attributes(metadata={"a": "b"}, owner="ann")))
    tagged = await bucket.set_tags("k", {"colour": "blue"})
    public = await bucket.set_acl("k", "public-read")
    assert public == await bucket.head("k")
    assert (public.attributes.tags, public.attributes.acl) == ({"colour": "blue"}, "public-read")
    assert (public.attributes.metadata, public.attributes.owner) == ({"a": "b"}, "ann")
    assert len({first.version, tagged.version, public.version}) == 3
    assert {first.version[:3], public.version[:3]} == {first.version[:3]}
    assert [info.attributes.owner for info in (await bucket.list()).objects] == ["ann"]
    await fails("NoSuchKey", NotFound, bucket.set_tags("none", {}))


async def test_copies_share_bytes_but_not_fates(store: Store, tmp_path: Path) -> None:
    """A copy is a link: equal bytes, own attributes, unharmed when the source goes."""
    one, two = store.bucket("one"), store.bucket("two")
    said = Attributes(metadata={"a": "b"}, checksums={"crc32": "AAAAAA=="}, checksum_type="FULL_OBJECT")
    source = await one.put("k", upload(b"copied bytes", said))
    plain = await two.copy_from(one, "k", "same")
    assert (plain.etag, plain.attributes) == (source.etag, said)
    other = await two.copy_from(one, "k", "other", Attributes(metadata={"c": "d"}))
    assert (other.attributes.metadata, other.attributes.checksums) == ({"c": "d"}, {"crc32": "AAAAAA=="})
    files = [Path((await bucket.locate(key)).extents[0].path) for bucket, key in ((one, "k"), (two, "same"))]
    assert files[0] != files[1]
    assert files[0].samefile(files[1])
    await one.delete("k")
    assert await read(two, "same") == b"copied bytes"
    onto_itself = await two.copy_from(two, "same", "same", Attributes(metadata={"e": "f"}))
    assert onto_itself.version.modified_ms >= plain.version.modified_ms
    assert await read(two, "same") == b"copied bytes"
    await fails("NoSuchKey", NotFound, two.copy_from(one, "k", "again"))
    await fails(
        "PreconditionFailed", Conflict, two.copy_from(two, "same", "other", None, Conditions(if_none_match=("*",)))
    )
    await fails(
        "PreconditionFailed",
        Conflict,
        two.copy_from(two, "same", "new", source_conditions=Conditions(if_match=("other",))),
    )
    await bodies_left(tmp_path / "store", 2)


async def test_conditional_delete_by_size_and_date(store: Store) -> None:
    """The two further conditions of S3's DeleteObject."""
    bucket = store.bucket("one")
    info = await bucket.put("k", upload(b"four"))
    seconds = info.version.modified_ms // 1000
    await fails("PreconditionFailed", Conflict, bucket.delete("k", size=5))
    await fails("PreconditionFailed", Conflict, bucket.delete("k", modified_seconds=seconds - 1))
    await bucket.delete("k", size=4, modified_seconds=seconds)
    await bucket.delete("k", size=9)


async def test_every_write_stamps_its_word_before_it_is_acknowledged(tmp_path: Path) -> None:
    """Whoever noted the word before looking something up learns of every change of the key."""
    words = Words(tmp_path / "words")
    store = Store.open(tmp_path / "store", words)
    bindings = [words.view[BINDINGS]]
    await store.create_bucket("b")
    bindings.append(words.view[BINDINGS])
    await store.put_document("b", "policy", "{}")
    bindings.append(words.view[BINDINGS])
    assert len(set(bindings)) == 3
    bucket = store.bucket("b")
    word = stripe("b", "k")
    upload_id = await bucket.create_upload("k")
    part = await bucket.put_part(upload_id, 1, upload(b"part"))
    seen = [words.view[word]]
    for write in (
        bucket.put("k", upload(b"x")),
        bucket.set_tags("k", {"a": "b"}),
        bucket.complete_upload("k", upload_id, [(1, part.etag)]),
        bucket.copy_from(bucket, "k", "k"),
        bucket.delete("k"),
    ):
        await write
        seen.append(words.view[word])
    assert len(set(seen)) == len(seen)
    store.close()
    words.close()


async def test_another_opening_sees_and_replaces(store: Store, tmp_path: Path) -> None:
    """Two openings of one store (as two processes have) see each other's commits and take turns."""
    other = Store.open(tmp_path / "store")
    mine, yours = store.bucket("one"), other.bucket("one")
    await mine.put("k", upload(b"mine"))
    assert await read(yours, "k") == b"mine"
    await yours.put("k", upload(b"yours"))
    assert await read(mine, "k") == b"yours"
    writes = [bucket.put(f"{number}", upload(b"x")) for number in range(50) for bucket in (mine, yours)]
    await asyncio.gather(*writes)
    assert len((await mine.list()).objects) == 51
    other.close()
    assert await read(mine, "k") == b"yours"


async def test_a_writer_that_holds_the_catalogue_too_long_is_busy(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that another process keeps ends in SlowDown, not in a hang, and nothing is left of the write."""
    monkeypatch.setattr("headrace.origin.catalogue.STORE_LOCK_SECONDS_MAX", 0.05)
    holder = sqlite3.connect(tmp_path / "store" / "catalogue.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    await fails("SlowDown", Busy, store.bucket("one").put("k", upload(b"x")))
    holder.execute("ROLLBACK")
    holder.close()
    await store.bucket("one").put("k", upload(b"y"))
    await bodies_left(tmp_path / "store", 1)


async def test_reopening_finds_everything(tmp_path: Path) -> None:
    """What was acknowledged is there after a clean end, attributes and all; no session is left."""
    store = Store.open(tmp_path / "store")
    await store.create_bucket("b", "ann", {"x": "y"})
    infos = [await store.bucket("b").put(f"k{number}", upload(b"%d" % number)) for number in range(5)]
    store.close()
    store.close()
    assert list((tmp_path / "store" / "sessions").iterdir()) == []
    store = Store.open(tmp_path / "store")
    assert (await store.bucket_info("b")).attributes == {"x": "y"}
    assert [await store.bucket("b").head(f"k{number}") for number in range(5)] == infos
    store.close()
    assert len(list((tmp_path / "store" / "bodies").glob("*/*"))) == 5


async def test_a_dead_session_is_swept(tmp_path: Path) -> None:
    """Bodies that no object got, and those that objects lost, go when their process is gone, and no others."""
    store = Store.open(tmp_path / "store")
    await store.create_bucket("b")
    await store.bucket("b").put("k", upload(b"kept"))
    upload_id = await store.bucket("b").create_upload("m")
    await store.bucket("b").put_part(upload_id, 1, upload(b"kept too"))
    store.close()
    kept = set(body_files(tmp_path / "store"))
    folder = tmp_path / "store"
    dead = "00c0ffee"
    (folder / "sessions" / dead).touch()
    orphan = folder / "bodies" / "00" / f"{dead}{7:012x}"
    orphan.write_bytes(b"never acknowledged")
    replaced = folder / "bodies" / "11" / "1234abcd000000001100"
    replaced.write_bytes(b"replaced, and then it crashed")
    db = sqlite3.connect(folder / "catalogue.db")
    db.execute("INSERT INTO trash VALUES(?)", (replaced.name,))
    db.commit()
    db.close()
    alive = Store.open(folder)
    living = folder / "bodies" / "22" / f"{alive._engine.bodies.session}{0x2200:012x}"
    living.write_bytes(b"being written")
    for _ in range(500):
        if set(body_files(tmp_path / "store")) == kept | {living.name} and not (folder / "sessions" / dead).exists():
            break
        time.sleep(0.01)  # noqa: ASYNC251 - a thread of the store works meanwhile
    assert set(body_files(tmp_path / "store")) == kept | {living.name}
    second = Store.open(folder)
    second.close()
    assert living.exists()
    assert await read(alive.bucket("b"), "k") == b"kept"
    alive.close()


def _gone(*paths: Path) -> bool:
    """Whether the files go within a while."""
    for _ in range(1000):
        if not any(path.exists() for path in paths):
            return True
        time.sleep(0.01)
    return False


def test_trash_of_a_clean_end_is_swept_at_the_next_start(tmp_path: Path) -> None:
    """What a process could not unlink before it ended goes, though it left no session."""
    Store.open(tmp_path / "store").close()
    folder = tmp_path / "store"
    names = [f"1234abcd{number:012x}" for number in range(0x1100, 0x1100 + 2 * STORE_GROUP_WRITES_MAX + 1)]
    left = [folder / "bodies" / name[SHARD] / name for name in names]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"deleted")
    with contextlib.closing(sqlite3.connect(folder / "catalogue.db")) as db:
        db.executemany("INSERT INTO trash VALUES(?)", [(name,) for name in names])
        db.commit()
    assert list((folder / "sessions").iterdir()) == []
    store = Store.open(folder)
    assert _gone(*left)
    store.close()
    with contextlib.closing(sqlite3.connect(folder / "catalogue.db")) as db:
        assert db.execute("SELECT count(*) FROM trash").fetchone() == (0,)


async def test_trash_that_found_its_queue_full_is_unlinked_all_the_same(tmp_path: Path) -> None:
    """More deletions at once than the queue holds don't leave bodies behind."""

    class Full(queue.Queue[str | None]):
        def put_nowait(self, item: str | None) -> None:
            raise queue.Full

    store = Store.open(tmp_path / "store")
    catalogue = store._engine.catalogue
    await store.create_bucket("b")
    await store.bucket("b").put("k", upload(b"old"))
    (name,) = body_files(tmp_path / "store")
    (path,) = (tmp_path / "store" / "bodies").glob(f"*/{name}")
    for _ in range(1000):
        if not catalogue._overflowed:  # the look at the table that every start takes
            break
        time.sleep(0.01)  # noqa: ASYNC251 - a thread of the store works meanwhile
    catalogue._trash = Full()
    await store.bucket("b").put("k", upload(b"new"))
    assert _gone(path)
    assert await read(store.bucket("b"), "k") == b"new"
    store.close()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """A store of a newer headrace is left alone."""
    Store.open(tmp_path / "store").close()
    db = sqlite3.connect(tmp_path / "store" / "catalogue.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(Invalid, match="format 99"):
        Store.open(tmp_path / "store")
    assert list((tmp_path / "store" / "sessions").iterdir()) == []


async def test_locate_now_needs_no_loop(store: Store) -> None:
    """The look-up of the hot path is a plain call."""
    bucket = store.bucket("one")
    await bucket.put("k", upload(b"located"))
    (extent,) = (await asyncio.to_thread(bucket.locate_now, "k")).extents
    file = Path(extent.path)
    assert await asyncio.to_thread(file.read_bytes) == b"located"
    assert (await asyncio.to_thread(file.stat)).st_mode & 0o777 == 0o600


async def test_a_listing_skips_what_lies_below_a_common_prefix(store: Store) -> None:
    """A listing with a delimiter reads a few rows per common prefix, not all rows below it."""
    bucket = store.bucket("one")
    number = store._engine.read_now(lambda db: db.execute("SELECT id FROM buckets WHERE name='one'").fetchone()[0])

    def fill(transaction: object) -> None:
        rows = [(number, f"p{first}/{second:05}".encode()) for first in range(10) for second in range(2000)]
        transaction.db.executemany(  # type: ignore[attr-defined]
            "INSERT INTO objects VALUES(?,?,'e',1,0,'t','',NULL,NULL,NULL)", rows
        )

    await store._engine.apply(fill)
    statements: list[str] = []
    store._engine.read_now(lambda db: db.set_trace_callback(statements.append))
    page = store._engine.read_now(lambda db: list_objects(db, number, "", "", "/", 1000))
    assert page.prefixes == tuple(f"p{first}/" for first in range(10))
    assert 10 <= len(statements) <= 12
    keys = []
    after = ""
    while (page := await bucket.list("p3/", after=after)).objects:
        keys += [info.key for info in page.objects]
        if page.next_after is None:
            break
        after = page.next_after
    assert keys == [f"p3/{second:05}" for second in range(2000)]
