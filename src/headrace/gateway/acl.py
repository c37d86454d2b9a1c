"""Access control lists: canned names, grant headers and documents, kept as one text. Pure.

The text is a canned name ("private", "public-read", ...) or, where no canned name says the same, a
JSON list of [grantee, permission]; a grantee is a user's canonical id, or the URI of a group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from headrace.base.errors import Invalid
from headrace.base.limits import ACL_GRANTS_MAX

ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
AUTHENTICATED = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOG_DELIVERY = "http://acs.amazonaws.com/groups/s3/LogDelivery"
PERMISSIONS = ("FULL_CONTROL", "READ", "WRITE", "READ_ACP", "WRITE_ACP")
PRIVATE = "private"

_CANNED: dict[str, tuple[tuple[str, str], ...]] = {
    "private": (),
    "public-read": ((ALL_USERS, "READ"),),
    "public-read-write": ((ALL_USERS, "READ"), (ALL_USERS, "WRITE")),
    "authenticated-read": ((AUTHENTICATED, "READ"),),
    "aws-exec-read": (),
    "bucket-owner-read": (),
    "bucket-owner-full-control": (),
    "log-delivery-write": ((LOG_DELIVERY, "WRITE"), (LOG_DELIVERY, "READ_ACP")),
}
_HEADERS = {
    "GrantRead": "READ",
    "GrantWrite": "WRITE",
    "GrantReadACP": "READ_ACP",
    "GrantWriteACP": "WRITE_ACP",
    "GrantFullControl": "FULL_CONTROL",
}
_GRANTEE = re.compile(r'\s*(id|uri|emailAddress)\s*=\s*"?([^",]*)"?\s*\Z', re.IGNORECASE)


class Grant(NamedTuple):
    """Who may do what. `grantee`: a canonical user id or a group's URI."""

    grantee: str
    permission: str


Known = Callable[[str], bool]
"""Whether a canonical user id belongs to a user of this node."""


def grants_of(text: str, owner_id: str) -> tuple[Grant, ...]:
    """The grants a stored text stands for, the owner's included where it is a canned name."""
    if text in _CANNED:
        return (Grant(owner_id, "FULL_CONTROL"), *(Grant(*pair) for pair in _CANNED[text]))
    try:
        return tuple(Grant(str(grantee), str(permission)) for grantee, permission in json.loads(text))
    except (ValueError, TypeError):
        return (Grant(owner_id, "FULL_CONTROL"),)


def permits(text: str, owner_id: str, user_id: str, permission: str) -> bool:
    """Whether the list grants `permission`; `user_id` is "" for anonymous callers."""
    if text == PRIVATE:
        return bool(user_id) and user_id == owner_id
    who = {ALL_USERS, AUTHENTICATED, user_id} if user_id else {ALL_USERS}
    return any(
        grant.grantee in who and grant.permission in ("FULL_CONTROL", permission) for grant in grants_of(text, owner_id)
    )


def public(text: str) -> bool:
    """Whether a group of strangers is granted anything."""
    return any(grant.grantee in (ALL_USERS, AUTHENTICATED) for grant in grants_of(text, ""))


def canned(name: str) -> str:
    """The text of a canned name. Raises Invalid (InvalidArgument)."""
    if name not in _CANNED:
        raise Invalid(
            "The canned ACL you specified is not valid",
            kind="InvalidArgument",
            details={"ArgumentName": "x-amz-acl", "ArgumentValue": name[:64]},
        )
    return name


def _text_of(grants: Sequence[Grant], owner_id: str) -> str:
    """The shortest text for a list of grants."""
    if len(grants) > ACL_GRANTS_MAX:
        raise Invalid(f"An ACL holds at most {ACL_GRANTS_MAX} grants", kind="MalformedACLError")
    wanted = set(grants)
    for name in ("private", "public-read", "public-read-write", "authenticated-read"):
        if wanted == set(grants_of(name, owner_id)):
            return name
    return json.dumps([list(grant) for grant in dict.fromkeys(grants)])


def _checked_user(name: str, known: Known) -> str:
    if not known(name):
        raise Invalid("Invalid id", kind="InvalidArgument", details={"ArgumentName": "CanonicalUser/ID"})
    return name


def _checked_group(uri: str) -> str:
    if uri not in (ALL_USERS, AUTHENTICATED, LOG_DELIVERY):
        raise Invalid("Invalid group uri", kind="InvalidArgument", details={"ArgumentName": "Group/URI"})
    return uri


def from_headers(params: Mapping[str, Any], owner_id: str, known: Known) -> str | None:
    """The text of a request's x-amz-acl or x-amz-grant-* members; None when it has neither.

    Raises Invalid (InvalidArgument, InvalidRequest when it has both, UnresolvableGrantByEmailAddress).
    """
    given = {permission: params[name] for name, permission in _HEADERS.items() if params.get(name)}
    if params.get("ACL"):
        if given:
            raise Invalid("Specifying both Canned ACLs and Header Grants is not allowed", kind="InvalidRequest")
        return canned(str(params["ACL"]))
    if not given:
        return None
    grants: list[Grant] = []
    for permission, header in given.items():
        for entry in str(header).split(","):
            found = _GRANTEE.match(entry)
            if found is None:
                raise Invalid("Argument format not recognized", kind="InvalidArgument")
            grants.append(Grant(_named(found[1].lower(), found[2], known), permission))
    return _text_of(grants, owner_id)


def _named(kind: str, value: str, known: Known) -> str:
    """A grantee of a header or document."""
    if kind == "id":
        return _checked_user(value, known)
    if kind == "uri":
        return _checked_group(value)
    raise Invalid(
        "The e-mail address you provided does not match any account on record.",
        kind="UnresolvableGrantByEmailAddress",
    )


def from_document(document: Mapping[str, Any], owner_id: str, known: Known) -> str:
    """The text of an AccessControlPolicy document. Raises Invalid (MalformedACLError, InvalidArgument, ...)."""
    if "Grants" not in document or "Owner" not in document:
        raise Invalid("The ACL names no owner or no grants", kind="MalformedACLError")
    if document["Owner"].get("ID") != owner_id:
        raise Invalid("The owner of an ACL can't be changed", kind="AccessDenied")
    grants: list[Grant] = []
    for entry in document["Grants"]:
        grantee, permission = entry.get("Grantee") or {}, entry.get("Permission")
        if permission not in PERMISSIONS:
            raise Invalid("The ACL grants an unknown permission", kind="MalformedACLError")
        kind = {"CanonicalUser": "id", "Group": "uri", "AmazonCustomerByEmail": "email"}.get(grantee.get("Type", ""))
        if kind is None:
            raise Invalid("The ACL has an unknown kind of grantee", kind="MalformedACLError")
        value = grantee.get("ID" if kind == "id" else "URI", "")
        grants.append(Grant(_named(kind, str(value), known), str(permission)))
    return _text_of(grants, owner_id)


def to_document(text: str, owner: Mapping[str, str], display_name: Callable[[str], str]) -> dict[str, Any]:
    """The members Owner and Grants of an ACL answer, groups first; `owner` holds ID and DisplayName."""
    grants = []
    for grant in sorted(grants_of(text, owner["ID"]), key=lambda grant: not grant.grantee.startswith("http://")):
        if grant.grantee.startswith("http://"):
            grantee = {"Type": "Group", "URI": grant.grantee}
        else:
            grantee = {"Type": "CanonicalUser", "ID": grant.grantee, "DisplayName": display_name(grant.grantee)}
        grants.append({"Grantee": grantee, "Permission": grant.permission})
    return {"Owner": dict(owner), "Grants": grants}
