"""Takes over a body that a worker wrote to the origin and kept in a spool file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from headrace.base import errors, limits
from headrace.cache.events import Name
from headrace.cache.fills import Tools, block_length
from headrace.cache.publisher import Publisher
from headrace.cache.shelf import NoRoomError
from headrace.media.frames import BlockName, Checksummer, block_digest
from headrace.media.index import Change, PutBlock
from headrace.media.layout import Entry
from headrace.media.segments import Reservation
from headrace.wire.agent import Ingest

_T = TypeVar("_T")
_STEP_BYTES = limits.MIB


async def supersede(name: Name, asked: float, publisher: Publisher) -> float | None:
    """Forget what was known before a write that was sent at steady time `asked`; returns when that is committed.

    The result is the forgotten time that stands for this write, None when another write or forget
    overlapped it: the origin alone knows which came last.
    """
    alone = asked > publisher.forgotten_at(name)
    forgotten = publisher.forget(name)
    since = publisher.forgotten_at(name)
    await forgotten
    return since if alone else None


async def ingest(question: Ingest, tools: Tools, since: float | None) -> None:
    """Copy the spool file's blocks into the log, publish them and then the metadata; remove the file.

    Metadata is left out when `since`, from `supersede`, is None or outdated, or when something newer
    was learnt meanwhile. Raises Busy (no tier takes it), Invalid (not the announced size).
    """
    path = Path(question.path)
    name, info = (question.binding, question.key), question.info
    try:
        changes: list[Change] = []
        size = await _thread(tools, lambda: path.stat().st_size)
        if size != info.size:
            raise errors.Invalid(f"spool file {path.name} has {size} bytes, {info.size} were announced")
        for block in range(-(-info.size // limits.BLOCK_BYTES)):
            entry = await _block(question, block, tools)
            changes.append(PutBlock(entry.digest, entry.location))
            tools.shelf.stored(entry)
        await tools.publisher.publish([*changes, *tools.publisher.metadata(name, info, question.asked, since)])
    except NoRoomError as refusal:
        raise errors.Busy(f"the cache does not take {question.key!r}: {refusal.reason}") from refusal
    finally:
        await asyncio.shield(_thread(tools, lambda: path.unlink(missing_ok=True)))


async def _block(question: Ingest, block: int, tools: Tools) -> Entry:
    length = block_length(question.info.size, block)
    name = BlockName(str(question.binding), question.key, question.info.version, block)
    reservation = await tools.shelf.reserve(name, block_digest(*name), length)
    try:
        return await _thread(tools, lambda: _copy(question.path, block * limits.BLOCK_BYTES, reservation))
    except errors.Unavailable as error:
        raise NoRoomError(tools.shelf.failed(reservation.segment_id, error)) from error


def _copy(path: str, start: int, reservation: Reservation) -> Entry:
    """In a worker thread: copy within the kernel, checksum what was copied, commit."""
    writer, length = reservation.writer, reservation.data_length
    checksummer = Checksummer()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:  # the worker was killed, or its client left: no fault of the tier
        writer.abandon(reservation)
        raise errors.Invalid(f"spool file {path} is gone: {error.strerror}") from error
    try:
        try:
            _copy_range(descriptor, start, reservation)
            for offset in range(start, start + length, _STEP_BYTES):
                checksummer.update(os.pread(descriptor, min(_STEP_BYTES, start + length - offset), offset))
        finally:
            os.close(descriptor)
    except OSError as error:
        writer.abandon(reservation)
        raise writer.fail(error) from error
    except BaseException:
        writer.abandon(reservation)
        raise
    return writer.commit(reservation, checksummer.finish())


def _copy_range(descriptor: int, start: int, reservation: Reservation) -> None:
    done = 0
    while done < reservation.data_length:
        wanted, source, target = reservation.data_length - done, start + done, reservation.data_offset + done
        try:
            copied = os.copy_file_range(descriptor, reservation.descriptor, wanted, source, target)
        except OSError:  # across file systems, or not supported: by hand; what really fails fails again
            copied = os.pwrite(reservation.descriptor, os.pread(descriptor, min(wanted, _STEP_BYTES), source), target)
        if copied == 0:
            raise errors.Invalid("a spool file ends before its announced size")
        done += copied


async def _thread(tools: Tools, call: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(tools.executor, call)
