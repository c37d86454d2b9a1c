"""What a bucket's name stands for, and where names are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.gateway.acl import PRIVATE
from headrace.gateway.keyring import user_id
from headrace.model.bindings import Binding
from headrace.origin.base import Origin
from headrace.origin.store import Store

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
        """Look for a bucket in the accounts; True when `target` knows it now. Raises Busy, Denied, Unavailable."""

    def created(self, bucket: str) -> None:
        """A bucket was made in the account that `account_target` named."""

    def deleted(self, bucket: str) -> None:
        """A bucket of an account was deleted there."""

    async def renew(self) -> None:
        """Ask the accounts anew what they hold; where one does not answer, its last list stands."""

    def in_account(self, bucket: str) -> bool:
        """Whether the bucket appeared by itself, and so goes when the account's bucket does."""

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

    def created(self, bucket: str) -> None:
        """There is no account."""

    def deleted(self, bucket: str) -> None:
        """There is no account."""

    async def renew(self) -> None:
        """There is no account."""

    def in_account(self, bucket: str) -> bool:  # noqa: ARG002 - the promise of Bindings
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
