"""Who may do what: the key's rules, the bucket's owner, its policy and the access control lists.

A matching Deny of the bucket's policy refuses everyone; the owner and the node's admins keep the
policy itself in hand. Otherwise one grant is enough: a rule of the key that names the bucket, `@own`
for the caller's own buckets and those nobody owns, an Allow of the policy, or an ACL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

from headrace.base import clock
from headrace.base.errors import Denied, HeadraceError, Invalid, NotFound
from headrace.gateway import acl
from headrace.gateway.keyring import Keyring, user_id
from headrace.gateway.messages import Identity, Request
from headrace.gateway.policy import ALLOW, DENY, Policy, compile_policy
from headrace.gateway.policy_conditions import Facts
from headrace.gateway.targets import BucketTarget
from headrace.model.objects import ObjectInfo
from headrace.origin.store_bucket import StoreBucket
from headrace.wire.signing import ALGORITHM


class Context(Protocol):
    """What judging needs of a worker's context."""

    keyring: Keyring

    def resolve(self, bucket: str) -> BucketTarget:
        """What the bucket stands for. Raises NotFound (NoSuchBucket)."""


class Need(NamedTuple):
    """What an operation asks for: the key's action, the policy's, and the ACL permission that suffices.

    `permission`: "" when no ACL can grant it. `on_object`: the object's ACL decides, not the bucket's.
    """

    action: str
    policy_action: str
    permission: str = ""
    on_object: bool = False


_READ = Need("read", "s3:GetObject", "READ", True)
_PUT = Need("write", "s3:PutObject", "WRITE")
_LIST = Need("list", "s3:ListBucket", "READ")

_NEEDS = {
    "AbortMultipartUpload": Need("write", "s3:AbortMultipartUpload", "WRITE"),
    "CompleteMultipartUpload": _PUT,
    "CopyObject": _PUT,
    "CreateBucket": Need("write", "s3:CreateBucket"),
    "CreateMultipartUpload": _PUT,
    "DeleteBucket": Need("write", "s3:DeleteBucket"),
    "DeleteObject": Need("write", "s3:DeleteObject", "WRITE"),
    "DeleteObjectTagging": Need("write", "s3:DeleteObjectTagging"),
    "GetBucketAcl": Need("list", "s3:GetBucketAcl", "READ_ACP"),
    "GetObject": _READ,
    "GetObjectAcl": Need("read", "s3:GetObjectAcl", "READ_ACP", True),
    "GetObjectAttributes": _READ,
    "GetObjectTagging": Need("read", "s3:GetObjectTagging"),
    "HeadBucket": _LIST,
    "HeadObject": _READ,
    "ListBuckets": Need("list", "s3:ListAllMyBuckets"),
    "ListMultipartUploads": Need("list", "s3:ListBucketMultipartUploads", "READ"),
    "ListObjectVersions": Need("list", "s3:ListBucketVersions", "READ"),
    "ListObjects": _LIST,
    "ListObjectsV2": _LIST,
    "ListParts": Need("list", "s3:ListMultipartUploadParts", "READ"),
    "PostObject": _PUT,
    "PutBucketAcl": Need("admin", "s3:PutBucketAcl", "WRITE_ACP"),
    "PutObject": _PUT,
    "PutObjectAcl": Need("write", "s3:PutObjectAcl", "WRITE_ACP", True),
    "PutObjectTagging": Need("write", "s3:PutObjectTagging"),
    "UploadPart": _PUT,
    "UploadPartCopy": _PUT,
}
_POLICY_CALLS = frozenset({"GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"})
_READS = ("Get", "Head", "List")


def need_of(action: str, *, on_object: bool) -> Need:
    """What an operation needs; those without an entry are judged by their name's first word."""
    found = _NEEDS.get(action)
    if found is not None:
        return found
    if action.startswith(_READS):
        return Need("read" if on_object else "list", f"s3:{action}")
    return Need("write" if on_object else "admin", f"s3:{action}")


def authorize(context: Context, request: Request, action: str, bucket: str, key: str) -> None:
    """Raise Denied (AccessDenied) unless the caller may do `action`; NotFound when the bucket is missing."""
    need = need_of(action, on_object=bool(key))
    identity = request.identity
    if not bucket or action == "CreateBucket":
        if _by_rules(context, identity, need.action, bucket, "") or context.keyring.allows_own(identity, need.action):
            return
        raise Denied("Access Denied")
    target = context.resolve(bucket)
    facts = _facts(request, target, key)
    verdict = _policy_verdict(target, identity, need, key, facts)
    ruling = identity.admin or _owns(target, identity)
    if verdict == DENY and not (ruling and action in _POLICY_CALLS):
        raise Denied("Access Denied")
    if verdict == ALLOW or (ruling and action in _POLICY_CALLS):
        return
    if _by_rules(context, identity, need.action, bucket, key) or _by_ownership(context, target, identity, need.action):
        return
    if need.permission and _by_acl(target, identity, need, key):
        return
    if need.on_object and not key_exists(target, key) and _may_list(context, request, target, key):
        return  # the operation itself says NoSuchKey
    raise Denied("Access Denied")


def may_read(context: Context, access_key: str, bucket: str, key: str) -> bool:
    """Whether a key may read an object without looking at the request or the object's ACL."""
    try:
        target = context.resolve(bucket)
        identity = context.keyring.identity(access_key)
        policy = compile_policy(target.policy) if target.policy else None
    except HeadraceError:
        return False
    if identity is None or (policy is not None and any(statement.conditions for statement in policy.statements)):
        return False
    verdict = policy.verdict(_aliases(identity), _READ.policy_action, f"{bucket}/{key}", _unknown) if policy else None
    if verdict is not None:
        return verdict == ALLOW
    return _by_rules(context, identity, "read", bucket, key) or _by_ownership(context, target, identity, "read")


def visible(context: Context, identity: Identity, target: BucketTarget) -> bool:
    """Whether ListBuckets shows a bucket to the caller."""
    return _by_rules(context, identity, "list", target.bucket, "") or _by_ownership(context, target, identity, "list")


def _unknown(_key: str) -> Sequence[str] | None:
    return None


def _owns(target: BucketTarget, identity: Identity) -> bool:
    return bool(identity.access_key) and target.owner == identity.name


def _by_rules(context: Context, identity: Identity, action: str, bucket: str, key: str) -> bool:
    return bool(identity.access_key) and context.keyring.allows(identity, action, bucket, key)


def _by_ownership(context: Context, target: BucketTarget, identity: Identity, action: str) -> bool:
    """`@own` rules: a user's own buckets, whose documents come with writing, and buckets nobody owns."""
    keyring = context.keyring
    if _owns(target, identity):
        return keyring.allows_own(identity, "write" if action == "admin" else action)
    return not target.owner and keyring.allows_own(identity, action)


def _aliases(identity: Identity) -> tuple[str, ...]:
    """The names by which a policy may mean the caller."""
    if not identity.access_key:
        return ()
    return identity.name, user_id(identity.name), identity.access_key


def _policy_verdict(target: BucketTarget, identity: Identity, need: Need, key: str, facts: Facts) -> str | None:
    """The policy's verdict; a stored document that this version can't read might deny anything, so it does."""
    if not target.policy:
        return None
    policy = policy_of(target)
    if policy is None:
        return DENY
    resource = f"{target.bucket}/{key}" if key else target.bucket
    return policy.verdict(_aliases(identity), need.policy_action, resource, facts)


def policy_of(target: BucketTarget) -> Policy | None:
    """The bucket's policy compiled; None without one, or when this version can't read it."""
    if not target.policy:
        return None
    try:
        return compile_policy(target.policy)
    except Invalid:
        return None


def _object_now(target: BucketTarget, key: str) -> ObjectInfo | None:
    """What the embedded store knows of an object; None when nothing, or when the bucket lies elsewhere."""
    if not key or not isinstance(target.origin, StoreBucket):
        return None
    try:
        return target.origin.locate_now(key).info
    except NotFound:
        return None


def key_exists(target: BucketTarget, key: str) -> bool:
    """Whether an object exists in the embedded store; True for other origins, which aren't asked."""
    return not isinstance(target.origin, StoreBucket) or _object_now(target, key) is not None


def _by_acl(target: BucketTarget, identity: Identity, need: Need, key: str) -> bool:
    """Whether the object's or the bucket's access control list grants it."""
    user = user_id(identity.name) if identity.access_key else ""
    if not need.on_object:
        return acl.permits(target.acl, target.owner_id, user, need.permission)
    info = _object_now(target, key)
    if info is None:
        return False
    owner = info.attributes.owner
    owned = bool(user) and owner in (identity.name, identity.access_key)
    return acl.permits(info.attributes.acl, user if owned else "", user, need.permission)


def _may_list(context: Context, request: Request, target: BucketTarget, key: str) -> bool:
    """Whether the caller may know that a key doesn't exist: might have listed it."""
    identity = request.identity
    asked = _facts(request, target, "")
    verdict = _policy_verdict(target, identity, _LIST, "", lambda name: (key,) if name == "s3:prefix" else asked(name))
    if verdict is not None:
        return verdict == ALLOW
    return (
        _by_rules(context, identity, "list", target.bucket, "")
        or _by_ownership(context, target, identity, "list")
        or _by_acl(target, identity, _LIST, "")
    )


def _facts(request: Request, target: BucketTarget, key: str) -> Facts:
    """The condition keys that headrace knows of a request, looked up when a policy asks."""
    params = {
        "s3:prefix": "prefix",
        "s3:delimiter": "delimiter",
        "s3:max-keys": "max-keys",
        "s3:versionid": "versionId",
    }

    def facts(name: str) -> Sequence[str] | None:
        if name in params:
            value: str | None = request.params.get(params[name])
            return None if value is None else (value,)
        if name.startswith("s3:existingobjecttag/"):
            info = _object_now(target, key)
            tags = {} if info is None else {tag.lower(): text for tag, text in info.attributes.tags.items()}
            return _one(tags.get(name.partition("/")[2]))
        if name.startswith("s3:requestobjecttag/"):
            sent = parse_qsl(request.header("x-amz-tagging") or "", keep_blank_values=True)
            return _one({tag.lower(): text for tag, text in sent}.get(name.partition("/")[2]))
        if name.startswith("s3:x-amz-"):
            return _one(request.header(name.removeprefix("s3:")))
        return _global_fact(request, name)

    return facts


def _one(value: str | None) -> Sequence[str] | None:
    return None if value is None else (value,)


def _global_fact(request: Request, name: str) -> Sequence[str] | None:
    """The aws: keys, which every service has, and how the request was signed."""
    identity = request.identity
    if name == "aws:sourceip":
        return _one(request.peer or None)
    if name in ("s3:authtype", "s3:signatureversion"):
        signed = _signed_by(request) if identity.access_key else None
        return _one(ALGORITHM if signed and name == "s3:signatureversion" else signed)
    if name == "aws:securetransport":
        return (str(request.secure).lower(),)
    if name in ("aws:useragent", "aws:referer"):
        return _one(request.header("user-agent" if name == "aws:useragent" else "referer"))
    if name in ("aws:username", "aws:userid"):
        return (identity.name if name == "aws:username" else user_id(identity.name),) if identity.access_key else None
    if name in ("aws:currenttime", "aws:epochtime"):
        return (str(clock.wall()),)
    return None


def _signed_by(request: Request) -> str:
    """Where a signed request carries its signature, in the words of `s3:authType`."""
    if "X-Amz-Signature" in request.params:
        return "REST-QUERY-STRING"
    return "REST-HEADER" if request.header("authorization") is not None else "POST"
