"""What one worker's operations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace.base.errors import NotFound
from headrace.base.limits import TARGETS_MAX
from headrace.gateway import access
from headrace.gateway.files import OpenFiles
from headrace.gateway.handover import Handovers
from headrace.gateway.keyring import Keyring, user_id
from headrace.gateway.messages import Identity, Request
from headrace.gateway.spool import Spool
from headrace.gateway.targets import FILE, PROXY, REMOTE, STORE, Bindings, BucketTarget, NoBindings, store_target
from headrace.origin.store import Store
from headrace.telemetry.metrics import Metrics
from headrace.telemetry.records import Ring
from headrace.wire.words import BINDINGS, EPOCH, Words, stripe

if TYPE_CHECKING:
    from headrace.cache.reader import Reader

__all__ = [
    "FILE", "PROXY", "REGION", "REMOTE", "STORE", "Bindings", "BucketTarget", "Context", "NoBindings", "store_target",
]  # fmt: skip

REGION = "us-east-1"
NODE_USER = "headrace"
"""Who owns what no user owns, in answers."""


@dataclass(slots=True, kw_only=True)
class Context:
    """One per worker; used by one thread."""

    store: Store
    keyring: Keyring
    words: Words
    files: OpenFiles
    ring: Ring
    bindings: Bindings = field(default_factory=NoBindings)
    reader: Reader | None = None
    spool: Spool | None = None
    """Where bodies for remote origins wait until the cache takes them over; None: they are only passed on."""
    handovers: Handovers = field(default_factory=Handovers)
    """Bodies that the cache takes over after their writes were answered."""
    domains: tuple[str, ...] = ()
    region: str = REGION
    metrics: Metrics | None = None
    open_metrics: bool = False
    _targets: dict[str, BucketTarget] = field(default_factory=dict)
    _generation: tuple[int, int] = (-1, -1)

    def resolve(self, bucket: str) -> BucketTarget:
        """What the bucket stands for; remembered until any bucket's word changes. Raises NotFound (NoSuchBucket)."""
        view = self.words.view
        generation = (view[BINDINGS], view[EPOCH])
        if generation != self._generation or len(self._targets) >= TARGETS_MAX:
            self._targets.clear()
            self._generation = generation
        found = self._targets.get(bucket)
        if found is None:
            found = self.bindings.target(bucket) or store_target(self.store, bucket)
            if found is None:
                raise NotFound(
                    "The specified bucket does not exist", kind="NoSuchBucket", details={"BucketName": bucket}
                )
            self._targets[bucket] = found
        return found

    async def find(self, bucket: str) -> BucketTarget:
        """`resolve`, after looking into the accounts for a name that is not known. Raises NotFound."""
        try:
            return self.resolve(bucket)
        except NotFound:
            if not await self.bindings.discover(bucket):
                raise
            return self.resolve(bucket)

    def authorize(self, request: Request, action: str, *, bucket: str | None = None, key: str | None = None) -> None:
        """Check that the caller may do `action`, an operation, on the request's bucket and key unless others are given.

        Raises Denied (AccessDenied), NotFound (NoSuchBucket).
        """
        access.authorize(
            self, request, action, request.bucket if bucket is None else bucket, request.key if key is None else key
        )

    def may_read(self, access_key: str, bucket: str, key: str) -> bool:
        """Whether a key may read an object, decided by generation words alone; False also when in doubt."""
        return access.may_read(self, access_key, bucket, key)

    def person(self, owner: str) -> dict[str, str]:
        """ID and DisplayName of a user, stored by name or by access key; of the node itself for ""."""
        identity = self.keyring.identity(owner) if owner else None
        name = identity.name if identity is not None else owner or NODE_USER
        return {"ID": user_id(name), "DisplayName": name}

    def display_name(self, canonical_id: str) -> str:
        """The name of a user by canonical id; "" when there is no such user."""
        return next((key.name for key in self.keyring.list() if key.user_id == canonical_id), "")

    def knows_user(self, canonical_id: str) -> bool:
        """Whether a canonical id belongs to a user of this node."""
        return any(key.user_id == canonical_id for key in self.keyring.list())

    def user(self, identity: Identity) -> str:
        """Canonical id of who signed; "" for anonymous."""
        return user_id(identity.name) if identity.access_key else ""

    async def invalidate(self, bucket: str, keys: Sequence[str] | None) -> None:
        """Forget what is remembered of these keys, in every process; None: of the bucket as such."""
        if keys is None:
            self.words.stamp(BINDINGS)
            return
        target = self.resolve(bucket)
        for key in keys:
            if self.reader is not None and target.binding is not None:
                await self.reader.forget(target.binding, key)
            self.words.stamp(stripe(bucket, key))
