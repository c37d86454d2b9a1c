"""What one worker's operations share, and what a bucket's name stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headrace.base.errors import NotFound
from headrace.base.limits import TARGETS_MAX
from headrace.gateway import access
from headrace.gateway.acl import PRIVATE
from headrace.gateway.files import OpenFiles
from headrace.gateway.keyring import Keyring, user_id
from headrace.gateway.messages import Identity, Request
from headrace.model.bindings import Binding
from headrace.origin.base import Origin
from headrace.origin.store import Store
from headrace.telemetry.metrics import Metrics
from headrace.telemetry.records import Ring
from headrace.wire.words import BINDINGS, EPOCH, Words, stripe

if TYPE_CHECKING:
    from headrace.cache.reader import Reader

REGION = "us-east-1"
NODE_USER = "headrace"
"""Who owns what no user owns, in answers."""
STORE, FILE, REMOTE, PROXY = "store", "file", "remote", "proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTarget:
    """A bucket by its name: where its objects lie, whose it is, and who may use it.

    `kind`: STORE (embedded store), FILE (a folder), PROXY (an S3 origin, which answers itself what
    headrace doesn't), REMOTE (any other origin). `store` holds the bucket's documents, of a STORE only.
    `owner` is a user's name, "" for a bucket that nobody owns. `acl` is a text as of `gateway.acl`,
    `policy` the document or None.
    """

    bucket: str
    origin: Origin
    kind: str
    binding: Binding | None = None
    store: Store | None = None
    owner: str = ""
    acl: str = PRIVATE
    policy: str | None = None
    created_ms: int = 0
    region: str = ""

    @property
    def owner_id(self) -> str:
        """Canonical id of the owner; "" when there is none."""
        return user_id(self.owner) if self.owner else ""


class Bindings(Protocol):
    """The buckets bound to origins, and the accounts whose buckets appear by themselves."""

    def target(self, bucket: str) -> BucketTarget | None:
        """The bound bucket, None when the name is not bound; no network is asked."""

    def listed(self) -> Sequence[BucketTarget]:
        """Every bound bucket, those found in accounts included."""

    async def discover(self, bucket: str) -> bool:
        """Look for a bucket in the accounts; True when `target` knows it now."""

    def account_target(self, bucket: str) -> BucketTarget | None:
        """The target a new bucket gets when buckets are made in an account; None: in the embedded store."""


class NoBindings:
    """Nothing but the embedded store."""

    def target(self, bucket: str) -> BucketTarget | None:  # noqa: ARG002 - the promise of Bindings
        """Nothing is bound."""
        return None

    def listed(self) -> Sequence[BucketTarget]:
        """Nothing is bound."""
        return ()

    async def discover(self, bucket: str) -> bool:  # noqa: ARG002 - the promise of Bindings
        """There is no account."""
        return False

    def account_target(self, bucket: str) -> BucketTarget | None:  # noqa: ARG002 - the promise of Bindings
        """Buckets are made in the embedded store."""
        return None


def store_target(store: Store, bucket: str, binding: Binding | None = None) -> BucketTarget | None:
    """A bucket of an embedded store with its documents; None when it doesn't exist."""
    info = store.bucket_now(bucket)
    if info is None:
        return None
    return BucketTarget(
        bucket=bucket,
        origin=store.bucket(bucket),
        kind=STORE,
        binding=binding,
        store=store,
        owner=info.owner,
        acl=store.document_now(bucket, "acl") or info.attributes.get("acl", PRIVATE),
        policy=store.document_now(bucket, "policy"),
        created_ms=info.created_ms,
        region=info.attributes.get("region", ""),
    )


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
    spool: Path | None = None
    """Where bodies for remote origins wait until the cache takes them over; None: they are only passed on."""
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
