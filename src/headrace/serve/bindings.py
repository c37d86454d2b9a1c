"""The buckets bound to origins, as one process serves them: the table in the database made alive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headrace.base import clock
from headrace.base.errors import Busy, Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.base.limits import (
    ACCOUNT_ANSWER_SECONDS_MAX,
    ACCOUNT_DISCOVER_SECONDS,
    ACCOUNT_LISTS_MAX,
    ORIGIN_FIRST_BYTE_SECONDS_MAX,
    ORIGINS_OPEN_MAX,
)
from headrace.gateway.bindings import ACCOUNT, BindingTable
from headrace.gateway.context import FILE, PROXY, REMOTE, BucketTarget, store_target
from headrace.model.bindings import Binding
from headrace.origin.base import Origin
from headrace.origin.factory import Origins
from headrace.origin.s3 import S3Account, S3Origin
from headrace.origin.store_bucket import StoreBucket
from headrace.origin.urls import bucket_url, parse
from headrace.telemetry import log

_log = log.get_logger("headrace.bindings")


class NodeBindings:
    """`gateway.context.Bindings`, and the agent's way from a binding's id to its origin."""

    def __init__(self, table: BindingTable, origins: Origins, accounts: Sequence[str]) -> None:
        self.table = table
        self._origins = origins
        self.accounts = [S3Account(url) for url in accounts]
        self.listed_once = asyncio.Event()
        self._open: dict[tuple[int, str], Origin] = {}
        self._created: dict[str, int] = {}
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._failed_at = float("-inf")
        self._failure: HeadraceError | None = None
        self._told = ""

    async def close(self) -> None:
        """Close every origin and account."""
        opened, self._open = [*self._open.values()], {}
        closing: list[Origin | S3Account] = [*opened, *self.accounts]
        for part in closing:
            try:
                await part.close()
            except HeadraceError as problem:
                _log.warning("origin did not close", reason=problem.message)

    # -- the gateway's questions

    def target(self, bucket: str) -> BucketTarget | None:
        """The bound bucket, None when the name is not bound."""
        binding = self.table.find(bucket)
        return None if binding is None else self._target(binding)

    def listed(self) -> Sequence[BucketTarget]:
        """Every bound bucket. One whose origin cannot even be made is left out, and said so in the log."""
        found = []
        for binding in self.table.list():
            try:
                target = self._target(binding)
            except HeadraceError as problem:
                _log.warning("binding unusable", bucket=binding.bucket, reason=problem.message)
                continue
            if target is not None:
                found.append(target)
        return found

    async def renew(self) -> None:
        """Ask the accounts anew, for a listing; where one does not answer soon, the last list stands."""
        if not self.accounts:
            return
        try:
            await self._list_since(clock.steady(), ACCOUNT_ANSWER_SECONDS_MAX)
        except HeadraceError as problem:
            if problem.message != self._told:
                _log.warning("account not listed", reason=problem.message)
            self._told = problem.message
        else:
            self._told = ""

    def in_account(self, bucket: str) -> bool:
        """Whether the bucket appeared by itself, and so goes when the account's bucket does."""
        return self.table.source(bucket) == ACCOUNT

    async def discover(self, bucket: str) -> bool:
        """Look for a bucket in lists of the accounts that are at most ACCOUNT_DISCOVER_SECONDS old.

        Raises Busy, Denied, Invalid, Unavailable.
        """
        if not self.accounts:
            return False
        if self.table.find(bucket) is None:
            await self._list_since(clock.steady() - ACCOUNT_DISCOVER_SECONDS, ACCOUNT_ANSWER_SECONDS_MAX)
        return self.table.find(bucket) is not None

    def created(self, bucket: str) -> None:
        """Bind a bucket that was just made in the first account; every process knows it on return."""
        try:
            if self.table.find(bucket) is None:
                self._created[bucket] = round(clock.wall() * 1000)
                self.table.add(bucket, bucket_url(self.accounts[0].url, bucket), source=ACCOUNT)
        except HeadraceError as problem:  # the bucket is made all the same, and the next list brings it
            _log.warning("new bucket not bound yet", bucket=bucket, reason=problem.message)

    def deleted(self, bucket: str) -> None:
        """Unbind a bucket that was just deleted in an account; every process knows it on return."""
        try:
            if self.table.source(bucket) == ACCOUNT:
                self.table.remove(bucket)
        except NotFound:
            return  # another process was faster
        except HeadraceError as problem:  # the bucket is gone all the same, and so it is from the next list
            _log.warning("deleted bucket not unbound yet", bucket=bucket, reason=problem.message)

    def account_target(self, bucket: str) -> BucketTarget | None:
        """Where a new bucket is made: in the first account; None for the embedded store."""
        if not self.accounts:
            return None
        return BucketTarget(bucket=bucket, origin=self.accounts[0].origin(bucket), kind=PROXY)

    async def refresh(self, seconds_old_max: float) -> None:
        """Have lists of the accounts at most that old. Raises Busy, Denied, Invalid, Unavailable."""
        await self._list_since(clock.steady() - seconds_old_max, ORIGIN_FIRST_BYTE_SECONDS_MAX)

    async def _list_since(self, moment: float, seconds_max: float) -> None:
        """Have lists that were asked for at `moment` (steady seconds) or later; callers share them.

        After a failure the accounts are left alone for ACCOUNT_DISCOVER_SECONDS. Raises as `refresh`.
        """
        try:
            async with asyncio.timeout(seconds_max):
                await self._asking.acquire()
        except TimeoutError:
            raise Busy("The account's buckets are being listed; try again.") from None
        try:
            if self._asked_at >= moment:
                return
            if self._failure is not None and clock.steady() - self._failed_at < ACCOUNT_DISCOVER_SECONDS:
                raise type(self._failure)(self._failure.message, kind=self._failure.kind)
            await self._ask(seconds_max)
        finally:
            self._asking.release()

    async def _ask(self, seconds_max: float) -> None:
        """Ask the accounts, and remember when, or how that failed."""
        started = clock.steady()
        failure: HeadraceError
        try:
            async with asyncio.timeout(seconds_max):
                await self._take_lists()
        except TimeoutError:
            failure = Unavailable(f"The account did not list its buckets within {seconds_max:g} s.")
        except HeadraceError as problem:
            failure = problem
        else:
            self._asked_at, self._failure = started, None
            self.listed_once.set()
            return
        self._failed_at, self._failure = clock.steady(), failure
        raise failure

    async def _take_lists(self) -> None:
        """Bind what the accounts hold now, and unbind what they lost."""
        for _ in range(ACCOUNT_LISTS_MAX):
            generation = self.table.generation
            wanted: dict[str, str] = {}
            created: dict[str, int] = {}
            for account in self.accounts:
                for bucket, created_ms in (await account.buckets(seconds_old_max=-1.0)).items():
                    wanted.setdefault(bucket, bucket_url(account.url, bucket))
                    created.setdefault(bucket, created_ms)
            # A list from before another process made or deleted a bucket would undo that here.
            if self.table.generation == generation:
                self._created = created
                self.table.set_account(list(wanted.items()))
                return
        raise Busy("The account's buckets change faster than they can be listed; try again.")

    # -- the agent's and the reader's

    def origin_of_id(self, number: int) -> Origin:
        """The origin of a binding. Raises NotFound, Invalid."""
        return self.origin_of(self.table.by_id(number))

    def origin_of(self, binding: Binding) -> Origin:
        """The origin of a binding, made at first use. Raises Invalid."""
        name = (binding.id, binding.url)
        origin = self._open.get(name)
        if origin is None:
            if len(self._open) >= ORIGINS_OPEN_MAX:
                raise Unavailable(f"{ORIGINS_OPEN_MAX} origins are open; a restart closes unused ones.")
            origin = self._open[name] = self._make(binding)
        return origin

    def _make(self, binding: Binding) -> Origin:
        for account in self.accounts:
            if binding.url == bucket_url(account.url, binding.bucket):
                return account.origin(binding.bucket)
        return self._origins.make(binding)

    def _target(self, binding: Binding) -> BucketTarget | None:
        origin = self.origin_of(binding)
        if isinstance(origin, StoreBucket):
            return store_target(self._origins.store(parse(binding.url).path), binding.bucket, binding)
        kind = FILE if origin.local else PROXY if isinstance(origin, S3Origin) else REMOTE
        created_ms = self._created.get(binding.bucket, 0)
        return BucketTarget(bucket=binding.bucket, origin=origin, kind=kind, binding=binding, created_ms=created_ms)


async def keep_accounts(bindings: NodeBindings, seconds: float) -> None:
    """Renew the accounts' buckets every `seconds`, until cancelled; an unreachable account keeps its last list."""
    told = ""
    while True:
        try:
            await bindings.refresh(seconds / 2)
            told = ""
        except (Busy, Denied, Invalid, NotFound, Unavailable) as problem:
            if problem.message != told:
                _log.warning("account not listed", reason=problem.message)
            told = problem.message
        await asyncio.sleep(seconds)
