"""An existing folder as a bucket, `file:///dir`, read and write.

Keys are paths. A key that no file can have (`a//b`, `..`, NUL, a name over 255 bytes) cannot be put,
and does not exist when read. `name/` is an object only after it was put, without a body, and is a
folder with a mark on it. Symbolic links to files inside the folder are read through; links that lead
out, and linked folders, are not seen. File names that are not UTF-8 are not seen. A key cannot be both
a file and a folder with something in it.

Others may change the files at any time: a version is (ETag, mtime, size, inode and ctime), and a body
that changes while it is read ends in an error, not in mixed bytes passed off as one version.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from headrace.base import clock
from headrace.base.errors import Invalid, NotFound, Unavailable
from headrace.base.limits import FOLDER_THREADS_MAX, MEMO_ENTRIES_MAX, STORE_READ_BYTES_MAX
from headrace.model.objects import NO_CONDITIONS, Attributes, Conditions, Extent, ObjectInfo
from headrace.origin.base import Located, Opened, Origin, Page, Upload
from headrace.origin.beneath import Beneath
from headrace.origin.bodies import unavailable
from headrace.origin.conditions import check_read, no_such_key, prefix_bytes, resolve_range
from headrace.origin.folder_files import describe, kept_beside, path_of
from headrace.origin.folder_list import Listings, Walk
from headrace.origin.folder_write import FileWriter, FolderWriter
from headrace.origin.ingest import Ingest, Received
from headrace.origin.local import run_in_pool
from headrace.origin.rows import above, first_after
from headrace.wire.words import Words, stripe

T = TypeVar("T")
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENXIO, errno.ENAMETOOLONG, errno.EINVAL)
_SETTLED_NS = 50_000_000
"""A file changed less than this ago may change again within one tick of its ctime."""


def _is_path(folder: bytes) -> bool:
    """Whether keys below the folder can exist."""
    try:
        path_of(folder.decode())
    except (Invalid, UnicodeDecodeError):
        return False
    return True


class Folder(Origin):
    """One folder as one bucket. `words` and `bucket`, when given, are stamped at every write."""

    local = True

    def __init__(self, root: Path, words: Words | None = None, bucket: str = "") -> None:
        """Raises NotFound (NoSuchBucket) when there is no such folder."""
        self.root = root
        self.url = f"file://{root}"
        self._words = words
        self._bucket = bucket
        try:
            self._beneath = Beneath(str(root))
        except OSError as error:
            raise NotFound(f"{root} is no folder that can be read: {error.strerror}", kind="NoSuchBucket") from error
        self._listings = Listings(self._beneath)
        self._writer = FolderWriter(self._beneath)
        self._pool = ThreadPoolExecutor(FOLDER_THREADS_MAX, "folder")
        self._ingest: Ingest[FileWriter] = Ingest(self._pool)
        self._memo: dict[str, tuple[tuple[int, int, int, int], ObjectInfo]] = {}

    async def close(self) -> None:
        """Finish running work and close the folder."""
        await asyncio.to_thread(self._pool.shutdown)
        self._writer.close()
        self._beneath.close()

    # -- reading

    def stat_now(self, key: str) -> ObjectInfo:
        """The object's current state by one open and one stat; quick enough for the loop. Raises NotFound."""
        descriptor = self._open(key)
        try:
            return self._info(key, descriptor)
        finally:
            os.close(descriptor)

    def locate_now(self, key: str) -> Located:
        """`locate`, callable on the loop. Raises NotFound."""
        descriptor = self._open(key)
        try:
            info = self._info(key, descriptor)
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        finally:
            os.close(descriptor)
        return Located(info, (Extent(path, 0, info.size),) if info.size else ())

    async def head(self, key: str) -> ObjectInfo:
        """The object's current state. Raises NotFound."""
        return await self._in_pool(lambda: self.stat_now(key))

    async def locate(self, key: str) -> Located:
        """The file, with all links resolved at this moment. Raises NotFound.

        Others may change the file: whoever opens it compares inode and ctime with the version's token, as
        the gateway does.
        """
        return await self._in_pool(lambda: self.locate_now(key))

    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        """Start reading; the body ends in Unavailable when the file was changed in place meanwhile."""

        def begin() -> tuple[ObjectInfo, int, tuple[int, int], int, int]:
            descriptor = self._open(key)
            try:
                status = os.fstat(descriptor)
                info = self._info(key, descriptor)
                check_read(info, conditions)
                return info, descriptor, (status.st_mtime_ns, status.st_size), *resolve_range(info.size, start, stop)
            except BaseException:
                os.close(descriptor)
                raise

        info, descriptor, unchanged, first, last = await self._in_pool(begin)
        return Opened(info, first, last - first, self._read(key, descriptor, unchanged, first, last))

    async def _read(
        self, key: str, descriptor: int, unchanged: tuple[int, int], first: int, last: int
    ) -> AsyncIterator[bytes]:
        """Pieces of the open file, as long as its (mtime, size) stay `unchanged`; closes it at the end."""

        def piece(position: int) -> bytes:
            found = os.pread(descriptor, min(STORE_READ_BYTES_MAX, last - position), position)
            status = os.fstat(descriptor)  # not its ctime: that changes too when the file loses its name
            if not found or (status.st_mtime_ns, status.st_size) != unchanged:
                raise Unavailable(f"{key!r} was changed while it was read: read it again")
            return found

        try:
            while first < last:
                found = await self._in_pool(lambda: piece(first))  # noqa: B023 - awaited here
                first += len(found)
                yield found
        finally:
            os.close(descriptor)

    def _open(self, key: str) -> int:
        try:
            path = path_of(key)
        except Invalid as error:
            raise no_such_key(key) from error
        try:
            return self._beneath.folder(path[:-1]) if path.endswith(b"/") else self._beneath.file(path)
        except OSError as error:
            if error.errno in _ABSENT:
                raise no_such_key(key) from error
            raise unavailable(error, f"while opening {key!r}") from error

    def _info(self, key: str, descriptor: int) -> ObjectInfo:
        """What the open file is; the attribute is read again only after the file changed."""
        status = os.fstat(descriptor)
        signature = (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
        known = self._memo.get(key)
        if known is not None and known[0] == signature:
            return known[1]
        info = describe(key, status, kept_beside(descriptor))
        if info is None:
            raise no_such_key(key)
        if clock.wall() * 1e9 - status.st_ctime_ns > _SETTLED_NS:
            if len(self._memo) >= MEMO_ENTRIES_MAX:
                self._memo.clear()
            self._memo[key] = (signature, info)
        return info

    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        """One page in byte order over all folders below."""
        arguments = prefix_bytes(prefix), prefix_bytes(after), prefix_bytes(delimiter)
        return await self._in_pool(lambda: self._list(*arguments, limit))

    def _list(self, prefix: bytes, after: bytes, delimiter: bytes, limit: int) -> Page:
        folder = prefix.rpartition(b"/")[0]
        if limit <= 0 or (folder and not _is_path(folder)):
            return Page((), (), None)
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = ""
        walk = Walk(self._listings, prefix, first_after(prefix, after, delimiter))
        for name in walk:
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            common = name[: cut + len(delimiter)] if cut >= 0 else b""
            info = self._listed(name)
            if info is None and not (common and name.endswith(b"/") and self._listings.holds_file(name)):
                continue
            if len(objects) + len(prefixes) == limit:
                return Page(tuple(objects), tuple(prefixes), last)
            if common:
                last = common.decode()
                prefixes.append(last)
                walk.seek(above(common) or common)
            elif info is not None:
                last = info.key
                objects.append(info)
        return Page(tuple(objects), tuple(prefixes), None)

    def _listed(self, name: bytes) -> ObjectInfo | None:
        """The object of that name; None when it is none, or gone by now."""
        try:
            return self.stat_now(name.decode())
        except NotFound:
            return None

    # -- writing

    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        """Store the body as a file; durable on return. Raises Invalid for a key that no file can have."""
        path = path_of(key)
        await self._in_pool(self._writer.prepare)
        received = await self._ingest.receive(upload, lambda: FileWriter(self._writer.temporary))
        attributes, etag = upload.attributes, upload.etag
        return await self._in_pool(lambda: self._finish(path, key, received, attributes, etag, conditions))

    def _finish(
        self,
        path: bytes,
        key: str,
        received: Received[FileWriter],
        attributes: Attributes,
        etag: str | None,
        conditions: Conditions,
    ) -> ObjectInfo:
        pieces, writer = received
        if path.endswith(b"/"):
            if writer is not None or any(pieces):
                if writer is not None:
                    writer.abandon()
                raise Invalid(f"the key {key!r} ends in a slash and would be a folder, which has no body")
            return self._stamped(key, self._writer.put_folder(path, key, attributes, conditions))
        try:
            writer = writer or FileWriter(self._writer.temporary)
            writer.write(pieces)
            return self._stamped(
                key, self._writer.publish(path, key, writer, attributes, etag or writer.md5, conditions)
            )
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
        finally:
            if writer is not None:
                writer.close()

    async def delete(self, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        """Remove the file; no error when there is none."""
        with contextlib.suppress(Invalid):
            path = path_of(key)
            await self._in_pool(self._writer.prepare)
            await self._in_pool(lambda: self._writer.delete(path, key, conditions))
            self._stamp(key)

    def _stamped(self, key: str, info: ObjectInfo) -> ObjectInfo:
        self._stamp(key)
        return info

    def _stamp(self, key: str) -> None:
        if self._words is not None:
            self._words.stamp(stripe(self._bucket, key))

    async def _in_pool(self, function: Callable[[], T]) -> T:
        """Run blocking work; it ends even when the waiter is cancelled. Raises Unavailable for OSError."""
        try:
            return await run_in_pool(self._pool, function)
        except OSError as error:
            raise unavailable(error, f"in the folder {self.root}") from error
