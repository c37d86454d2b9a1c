"""A folder as a bucket: what files can be, links, foreign changes, attributes, leftovers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from headrace.base.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.model.objects import Attributes, Conditions
from headrace.origin import beneath
from headrace.origin.base import Page, Upload
from headrace.origin.folder import Folder
from headrace.testing.origin_calls import broken, every_page, fails, pieces, read, upload
from headrace.wire.words import Words, stripe


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that is the bucket, with a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest_asyncio.fixture(params=["openat2", "steps"])
async def folder(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Folder]:
    """The folder as an origin, on kernels with and without openat2."""
    if request.param == "steps":
        monkeypatch.setattr(beneath, "_kernel_has_openat2", lambda _: False)
    opened = Folder(root)
    yield opened
    await opened.close()


def names_in(path: Path) -> list[str]:
    """Names of what lies in a folder."""
    return sorted(found.name for found in path.iterdir())


async def keys(folder: Folder, prefix: str = "") -> list[str]:
    """All keys of the folder."""
    return (await every_page(folder, 1000, prefix))[0]


async def test_keys_that_no_file_can_have(folder: Folder, root: Path) -> None:
    """They are refused with a reason, do not exist when read, and reach nothing outside."""
    for key in ("a//b", "/a", "..", "../secret", "a/../b", "a/..", ".", "./a", "a/./b", "nul\0l", ".headrace/x", "//"):
        await fails("InvalidRequest", Invalid, folder.put(key, upload(b"x")))
        await fails("NoSuchKey", NotFound, folder.head(key))
        await fails("NoSuchKey", NotFound, folder.open(key))
        await fails("NoSuchKey", NotFound, folder.locate(key))
        await folder.delete(key)
        assert await folder.list(key) == Page((), (), None)
    await fails("KeyTooLongError", Invalid, folder.put("a/" + "n" * 256, upload(b"x")))
    await fails("NoSuchKey", NotFound, folder.head("n" * 256))
    await fails("InvalidRequest", Invalid, folder.put("a/b/", upload(b"with a body")))
    assert (root.parent / "secret").read_text() == "secret"
    assert await keys(folder) == []


async def test_a_key_cannot_be_file_and_folder(folder: Folder) -> None:
    """The second of two keys that need the same name is refused, and the first stays."""
    await folder.put("a/b", upload(b"below"))
    await fails("InvalidRequest", Invalid, folder.put("a", upload(b"above")))
    await fails("InvalidRequest", Invalid, folder.put("a/b/c", upload(b"further below")))
    await fails("NoSuchKey", NotFound, folder.head("a/b/c"))
    assert await keys(folder) == ["a/b"]


async def test_folders_are_objects_only_when_put(folder: Folder, root: Path) -> None:
    """`name/` exists after it was put without a body, and goes when deleted; other folders never show."""
    (root / "foreign" / "empty").mkdir(parents=True)
    info = await folder.put("marked/", upload(b"", Attributes(metadata={"a": "b"})))
    assert (info.key, info.size) == ("marked/", 0)
    assert (await folder.head("marked/")).attributes.metadata == {"a": "b"}
    assert await read(folder, "marked/") == b""
    await folder.put("marked/below", upload(b"x"))
    assert await keys(folder) == ["marked/", "marked/below"]
    assert await folder.list(delimiter="/") == Page((), ("marked/",), None)
    assert await every_page(folder, 1000, "marked/", "/") == (["marked/", "marked/below"], [])
    await fails("NoSuchKey", NotFound, folder.head("foreign/"))
    await fails("NoSuchKey", NotFound, folder.head("marked"))
    await fails("InvalidRequest", Invalid, folder.put("marked", upload(b"x")))
    await folder.delete("foreign/")
    assert (root / "foreign" / "empty").is_dir()
    await folder.delete("marked/below")
    assert await keys(folder) == ["marked/"]
    await folder.delete("marked/")
    assert not (root / "marked").exists()


async def test_folders_made_for_keys_go_with_them(folder: Folder, root: Path) -> None:
    """Empty folders that headrace made are removed with the last object in them, others stay."""
    (root / "theirs").mkdir()
    await folder.put("theirs/ours/deep/key", upload(b"x"))
    await folder.delete("theirs/ours/deep/key")
    assert names_in(root) == [".headrace", "theirs"]
    assert names_in(root / "theirs") == []
    await folder.put("theirs", upload(b"an empty folder gives way"))
    assert await read(folder, "theirs") == b"an empty folder gives way"


async def test_links(folder: Folder, root: Path) -> None:
    """Links inside the folder may name files; what leads out, or is a linked folder, is not there."""
    await folder.put("real/file", upload(b"real"))
    (root / "out").symlink_to(root.parent / "secret")
    (root / "up").symlink_to("../secret")
    (root / "tree").symlink_to("real")
    (root / "away").symlink_to(root.parent)
    (root / "loop").symlink_to("loop")
    for key in ("out", "up", "tree/file", "away/secret", "away/root/real/file", "loop"):
        await fails("NoSuchKey", NotFound, folder.open(key))
        await fails("NoSuchKey", NotFound, folder.locate(key))
    await fails("InvalidRequest", Invalid, folder.put("away/new", upload(b"x")))
    assert not (root.parent / "new").exists()
    assert await keys(folder) == ["real/file"]
    await folder.put("out", upload(b"the link is replaced, not followed"))
    assert (root.parent / "secret").read_text() == "secret"


async def test_a_link_to_a_file_inside_is_read_through(root: Path) -> None:
    """Needs openat2; the location names the real file."""
    folder = Folder(root)
    await folder.put("blobs/1234", upload(b"blob"))
    (root / "names").mkdir()
    (root / "names" / "nice").symlink_to("../blobs/1234")
    if beneath._kernel_has_openat2(folder._beneath.root):
        assert await read(folder, "names/nice") == b"blob"
        assert (await folder.locate("names/nice")).extents[0].path == str(root / "blobs" / "1234")
        assert await keys(folder) == ["blobs/1234", "names/nice"]
    await folder.close()


async def test_things_that_are_no_files(folder: Folder, root: Path) -> None:
    """Pipes, and names that are not UTF-8, are not seen and block nothing."""
    os.mkfifo(root / "pipe")
    os.close(os.open(os.fsencode(root) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))
    await folder.put("file", upload(b"x"))
    await fails("NoSuchKey", NotFound, folder.open("pipe"))
    assert await keys(folder) == ["file"]


async def test_foreign_files(folder: Folder, root: Path) -> None:
    """A file that somebody else wrote has an ETag that nobody takes for an MD5, until headrace writes it."""
    (root / "foreign").write_bytes(b"not written by headrace")
    first = await folder.head("foreign")
    assert (first.etag[-2:], len(first.etag)) == ("-f", 34)
    assert await folder.head("foreign") == first
    await folder.put("foreign", upload(b"ours"))
    assert not (await folder.head("foreign")).etag.endswith("-f")


async def test_a_change_in_place_is_another_version(folder: Folder, root: Path) -> None:
    """Attributes count only for the bytes they were written for; a metadata-only change shows too."""
    first = await folder.put("k", upload(b"first", Attributes(metadata={"a": "b"})))
    (root / "k").write_bytes(b"other")
    second = await folder.head("k")
    assert second.etag.endswith("-f")
    assert (second.attributes.metadata, second.version == first.version) == ({}, False)
    os.chmod(root / "k", 0o600)  # noqa: PTH101 - a change of the inode alone
    third = await folder.head("k")
    assert (third.etag, third.version.token != second.version.token) == (second.etag, True)
    os.setxattr(root / "k", "user.headrace", b"{garbage")
    assert (await folder.head("k")).etag == second.etag
    assert await folder.head("k") == folder.stat_now("k")


async def test_a_body_that_changes_while_it_is_read(folder: Folder, root: Path) -> None:
    """The reader learns of it."""
    await folder.put("k", upload(bytes(4 << 20)))
    opened = await folder.open("k")
    await anext(opened.body)
    with (root / "k").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(Unavailable, match="changed while it was read"):
        async for _ in opened.body:
            pass


async def test_attributes_that_do_not_fit(folder: Folder) -> None:
    """More than the file system keeps beside a file is refused whole, or kept whole."""
    said = Attributes(metadata={"big": "x" * 70_000})
    await fails("MetadataTooLarge", Invalid, folder.put("k", upload(b"x", said)))
    assert await keys(folder) == []


async def test_no_unfinished_body_shows_or_stays(folder: Folder, root: Path) -> None:
    """Bodies on their way are hidden, and gone when they fail; young ones of others are left alone."""
    hidden = root / ".headrace" / "tmp"
    hidden.mkdir(parents=True)
    (hidden / "young").write_bytes(b"begun just now by somebody")
    waiting = asyncio.Event()
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(2 << 20)
        waiting.set()
        await go_on.wait()

    writing = asyncio.create_task(folder.put("k", Upload(body())))
    await waiting.wait()
    assert await keys(folder) == []
    go_on.set()
    await writing
    with pytest.raises(Invalid):
        await folder.put("k", Upload(broken(bytes(2 << 20), Invalid("no"))))
    names = set()
    for _ in range(500):
        names = {path.name for path in hidden.iterdir()}
        if names == {"young"}:
            break
        await asyncio.sleep(0.01)
    assert names == {"young"}


async def test_leftovers_are_swept_by_age(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once old enough, an unlocked leftover goes; a locked one stays."""
    hidden = root / ".headrace" / "tmp"
    hidden.mkdir(parents=True)
    (hidden / "old").write_bytes(b"left by a crash")
    monkeypatch.setattr("headrace.origin.folder_write._YOUNG_SECONDS", -1.0)
    first = Folder(root)
    started = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(2 << 20)
        yield bytes(2 << 20)
        started.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(first.put("slow", Upload(body())))
    await started.wait()
    second = Folder(root)
    await second.put("k", upload(b"x"))
    assert len(list(hidden.iterdir())) == 1
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await first.close()
    await second.close()
    assert list(hidden.iterdir()) == []


async def test_very_large_folders_are_listed_in_windows(
    folder: Folder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with more names than are kept at once still lists whole, in order, on every page size."""
    monkeypatch.setattr("headrace.origin.folder_list.FOLDER_NAMES_MAX", 7)
    monkeypatch.setattr("headrace.origin.folder_list.FOLDER_LISTINGS_NAMES_MAX", 20)
    monkeypatch.setattr("headrace.origin.folder_list._SETTLED_NS", -1)
    names = [f"f{number:02}" for number in range(25)] + [f"d{number}/x" for number in range(9)] + ["f05-/y", "f05.z"]
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    expected = sorted(names)
    for limit in (1, 4, 100):
        assert await every_page(folder, limit) == (expected, [])
        assert await every_page(folder, limit, "f1") == ([name for name in expected if name.startswith("f1")], [])
        assert (await every_page(folder, limit, delimiter="/"))[1] == [*(f"d{n}/" for n in range(9)), "f05-/"]
    (root / "f99").write_bytes(b"new")
    assert (await keys(folder))[-1] == "f99"
    (root / "f99").unlink()
    assert await keys(folder) == expected


async def test_other_delimiters(folder: Folder) -> None:
    """Any text may cut names, also inside folder names."""
    for key in ("a-b/c", "a-b/d-e", "a/b-c", "a-/x", "b"):
        await folder.put(key, upload(b"x"))
    assert await every_page(folder, 1, delimiter="-") == (["b"], ["a-", "a/b-"])
    assert await every_page(folder, 1, prefix="a-b/", delimiter="-") == (["a-b/c"], ["a-b/d-"])


async def test_writes_stamp_their_word(root: Path, tmp_path: Path) -> None:
    """Where there is a table of words, every write tells it."""
    words = Words(tmp_path / "words")
    folder = Folder(root, words, "bucket")
    word = stripe("bucket", "k")
    seen = [words.view[word]]
    for write in (folder.put("k", upload(b"x")), folder.put("k", upload(b"y")), folder.delete("k")):
        await write
        seen.append(words.view[word])
    assert len(set(seen)) == 4
    await folder.close()
    words.close()


async def test_two_openings_agree_on_the_winner(folder: Folder, root: Path) -> None:
    """Conditional writes hold across openings (as processes have them)."""
    other = Folder(root)
    first = await folder.put("k", upload(b"first"))
    same = Conditions(if_match=(first.etag,))
    writes = [
        origin.put("k", Upload(pieces(b"%d" % number)), same) for number in range(6) for origin in (folder, other)
    ]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == len(results) - 1
    await other.close()


def test_a_missing_folder(tmp_path: Path) -> None:
    """It is NoSuchBucket, and nothing is made."""
    with pytest.raises(NotFound) as caught:
        Folder(tmp_path / "none")
    assert caught.value.kind == "NoSuchBucket"
    assert list(tmp_path.iterdir()) == []
