"""Batches what the index is to learn: bytes first, metadata last, never older than a `Forget`."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor

from headrace.base import errors, limits
from headrace.base.clock import Clock
from headrace.cache.events import Name
from headrace.media.index import Change, DropMeta, IndexWriter, MetaRecord, PutMeta
from headrace.model.objects import ObjectInfo

_log = logging.getLogger("headrace.cache")
_SAME_SECONDS = 1.0


class Publisher:
    """Commits changes every 10 ms or 64 changes, whichever comes first, in a worker thread.

    A *forgotten* time per object stands for "what was asked before this may be outdated": metadata
    that an origin was asked for earlier is not published. When the table of forgotten times is full
    the oldest entry goes and its time holds for every object, which errs to the safe side.
    """

    def __init__(self, index: IndexWriter, executor: Executor, clock: Clock) -> None:
        self._index = index
        self._executor = executor
        self._clock = clock
        self._queue: list[tuple[tuple[Change, ...], asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._forgotten: OrderedDict[Name, float] = OrderedDict()
        self._forgotten_all = clock.steady()  # the agent before this one may have been told of more
        self._task: asyncio.Task[None] | None = None
        self._sick_until = 0.0
        self.commits = 0
        self.failures = 0

    @property
    def sick(self) -> bool:
        """True for a while after a commit failed: what is filled now could not be found again."""
        return self._clock.steady() < self._sick_until

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="headrace index commits")

    async def stop(self) -> None:
        """Commit what is queued and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._commit()

    def publish(self, changes: Sequence[Change]) -> asyncio.Future[None]:
        """Queue changes for one commit; the future ends when they are committed, or with its error.

        Raises Busy when the queue is full.
        """
        if len(self._queue) >= limits.COMMITS_PENDING_MAX:
            raise errors.Busy("the index cannot keep up with the fills")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((tuple(changes), future))
        self._wake.set()
        return future

    def forget(self, name: Name) -> asyncio.Future[None]:
        """Drop the object's metadata, and refuse any that was asked for before now."""
        self._forgotten.pop(name, None)
        self._forgotten[name] = self._clock.steady()
        if len(self._forgotten) > limits.FORGOTTEN_KEYS_MAX:
            _, oldest = self._forgotten.popitem(last=False)
            self._forgotten_all = max(self._forgotten_all, oldest)
        return self.publish([DropMeta(str(name[0]), name[1])])

    def forgotten_at(self, name: Name) -> float:
        """Steady time before which nothing that was learnt of the object may be believed."""
        return max(self._forgotten.get(name, 0.0), self._forgotten_all)

    def metadata(self, name: Name, info: ObjectInfo, asked: float, since: float | None = None) -> list[Change]:
        """What to commit so that the object is known as `info`, asked for at steady time `asked`.

        `since` is the forgotten time that a write set for what it made itself, and which does not
        count against it. Empty when outdated, or known already and confirmed within the last second.
        """
        forgotten = self.forgotten_at(name)
        if asked <= forgotten != since:
            return []
        fetched = self._clock.wall() - (self._clock.steady() - asked)
        known = self._index.meta(str(name[0]), name[1])
        if known is not None:
            if known.fetched_wall > fetched:
                return []
            if known.info.version == info.version and fetched - known.fetched_wall < _SAME_SECONDS:
                return []
        return [PutMeta(MetaRecord(str(name[0]), name[1], info, fetched))]

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if len(self._queue) < limits.COMMIT_BLOCKS_MAX:
                await asyncio.sleep(limits.COMMIT_SECONDS_MAX)
            self._wake.clear()
            await asyncio.shield(asyncio.ensure_future(self._commit()))

    async def _commit(self) -> None:
        queue, self._queue = self._queue, []
        if not queue:
            return
        error = await self._apply([change for some, _ in queue for change in some])
        for changes, future in queue:
            # One record that cannot be stored must not cost the others their place.
            own = await self._apply(changes) if isinstance(error, errors.Invalid) and len(queue) > 1 else error
            if future.done():
                continue
            if own is None:
                future.set_result(None)
            else:
                future.set_exception(own)
                future.exception()  # whoever does not wait for it must not be warned about

    async def _apply(self, changes: Sequence[Change]) -> Exception | None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._index.apply, changes)
        except errors.Invalid as error:
            return error
        except Exception as error:  # whatever it was, those who wait must hear of it
            if not self.sick:
                _log.error("the index cannot be written: reads go around the cache for a while; %s", error)
            self.failures += 1
            self._sick_until = self._clock.steady() + limits.TIER_PROBE_SECONDS
            return error
        self.commits += 1
        return None
