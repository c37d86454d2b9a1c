"""The buckets bound to origins, as one process serves them: the table in the database made alive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headrace.base import clock
from headrace.base.errors import Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.base.limits import ACCOUNT_DISCOVER_SECONDS, ORIGINS_OPEN_MAX
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
        self._missing: dict[str, float] = {}
        self._created: dict[str, int] = {}
        self._asking = asyncio.Lock()

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
        """Ask the accounts anew, so that a listing shows what they hold now. Raises Denied, Unavailable."""
        if self.accounts:
            await self.refresh(0.0)

    def in_account(self, bucket: str) -> bool:
        """Whether the bucket appeared by itself, and so goes when the account's bucket does."""
        return self.table.source(bucket) == ACCOUNT

    async def discover(self, bucket: str) -> bool:
        """Look for a bucket in the accounts; a name that is in none is not asked for again for a while."""
        now = clock.steady()
        if not self.accounts or self._missing.get(bucket, 0.0) > now:
            return False
        async with self._asking:
            if self.table.find(bucket) is None:
                await self.refresh(0.0)
        if self.table.find(bucket) is not None:
            return True
        if len(self._missing) >= ORIGINS_OPEN_MAX:
            self._missing.clear()
        self._missing[bucket] = clock.steady() + ACCOUNT_DISCOVER_SECONDS
        return False

    def account_target(self, bucket: str) -> BucketTarget | None:
        """Where a new bucket is made: in the first account; None for the embedded store."""
        if not self.accounts:
            return None
        self._missing.pop(bucket, None)
        return BucketTarget(bucket=bucket, origin=self.accounts[0].origin(bucket), kind=PROXY)

    async def refresh(self, seconds_old_max: float) -> None:
        """Bind what the accounts hold now, and unbind what they lost. Raises Denied, Invalid, Unavailable."""
        wanted: dict[str, str] = {}
        created: dict[str, int] = {}
        for account in self.accounts:
            for bucket, created_ms in (await account.buckets(seconds_old_max=seconds_old_max)).items():
                wanted.setdefault(bucket, bucket_url(account.url, bucket))
                created.setdefault(bucket, created_ms)
        self._created = created
        self.table.set_account(list(wanted.items()))
        self.listed_once.set()

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
        except (Denied, Invalid, NotFound, Unavailable) as problem:
            if problem.message != told:
                _log.warning("account not listed", reason=problem.message)
            told = problem.message
        await asyncio.sleep(seconds)
