"""Bucket policies and access control lists: what they grant, what they refuse, what is no policy at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from headrace.base.errors import HeadraceError, Invalid
from headrace.gateway import acl
from headrace.gateway.policy import ALLOW, DENY, compile_policy
from headrace.gateway.policy_conditions import compile_conditions

ME, YOU = "a" * 64, "b" * 64


def document(**changes: Any) -> str:
    """A policy of one statement."""
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::b/*",
    }
    statement.update(changes)
    return json.dumps({"Version": "2012-10-17", "Statement": [{k: v for k, v in statement.items() if v is not None}]})


def verdict(
    text: str,
    action: str = "s3:GetObject",
    resource: str = "b/k",
    *,
    who: tuple[str, ...] = ("ann",),
    facts: Mapping[str, str] | None = None,
) -> str | None:
    """What the policy says."""
    known = facts or {}
    return compile_policy(text).verdict(who, action, resource, lambda key: (known[key],) if key in known else None)


def test_statements_match_whom_what_and_where() -> None:
    assert verdict(document()) == ALLOW
    assert verdict(document(), who=()) == ALLOW
    assert verdict(document(), "s3:PutObject") is None
    assert verdict(document(), resource="b") is None
    assert verdict(document(), resource="bb/k") is None
    assert verdict(document(Action=["s3:Put*", "S3:getobj?ct"])) == ALLOW
    assert verdict(document(Action="*", Resource="*"), "s3:DeleteBucket", "b") == ALLOW
    assert verdict(document(Action=None, NotAction="s3:GetObject")) is None
    assert verdict(document(Action=None, NotAction="s3:PutObject")) == ALLOW
    assert verdict(document(Resource=None, NotResource="arn:aws:s3:::b/secret*"), resource="b/secret") is None
    assert verdict(document(Resource="arn:aws:s3:::b/a?c/[x]*"), resource="b/abc/[x]y\nz") == ALLOW


@pytest.mark.parametrize(
    ("principal", "matches"),
    [
        ("*", True),
        ({"AWS": "*"}, True),
        ({"AWS": ["arn:aws:iam::123:user/ann"]}, True),
        ({"AWS": "arn:aws:iam:::user/team/ann"}, True),
        ({"AWS": "arn:aws:iam::ann:root"}, True),
        ({"AWS": "ann"}, True),
        ({"CanonicalUser": "ann"}, True),
        ({"AWS": "arn:aws:iam:::user/bob"}, False),
        ({"Service": "logging.s3.amazonaws.com"}, False),
    ],
)
def test_principals(principal: Any, matches: bool) -> None:
    assert verdict(document(Principal=principal)) == (ALLOW if matches else None)
    excluded = document(Principal=None, NotPrincipal=principal)
    assert verdict(excluded) == (None if matches else ALLOW)


def test_a_deny_wins_in_any_order() -> None:
    allow = json.loads(document())["Statement"][0]
    deny = {**allow, "Effect": "Deny", "Resource": "arn:aws:s3:::b/secret/*"}
    for statements in ([allow, deny], [deny, allow]):
        text = json.dumps({"Statement": statements})
        assert verdict(text, resource="b/secret/x") == DENY
        assert verdict(text, resource="b/open") == ALLOW


@pytest.mark.parametrize(
    ("condition", "facts", "holds"),
    [
        ({"StringEquals": {"s3:prefix": "a"}}, {"s3:prefix": "a"}, True),
        ({"StringEquals": {"s3:prefix": ["b", "a"]}}, {"s3:prefix": "a"}, True),
        ({"StringEquals": {"s3:prefix": "a"}}, {}, False),
        ({"StringEqualsIfExists": {"s3:prefix": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"s3:prefix": "a"}}, {"s3:prefix": "b"}, False),
        ({"StringNotEquals": {"s3:prefix": "a"}}, {}, True),
        ({"StringNotEquals": {"s3:prefix": ["a", "b"]}}, {"s3:prefix": "b"}, False),
        ({"StringLike": {"aws:Referer": "http://x/*"}}, {"aws:referer": "http://x/y"}, True),
        ({"StringNotLike": {"aws:Referer": "http://x/*"}}, {"aws:referer": "http://x/y"}, False),
        ({"StringEqualsIgnoreCase": {"s3:prefix": "A"}}, {"s3:prefix": "a"}, True),
        ({"NumericLessThanEquals": {"s3:max-keys": 10}}, {"s3:max-keys": "10"}, True),
        ({"NumericLessThan": {"s3:max-keys": "10"}}, {"s3:max-keys": "x"}, False),
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, {"aws:currenttime": "1714979289"}, True),
        ({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, {"aws:currenttime": "1714979289"}, False),
        ({"Bool": {"aws:SecureTransport": False}}, {"aws:securetransport": "false"}, True),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:sourceip": "10.1.2.3"}, True),
        ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:sourceip": "10.1.2.3"}, False),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:sourceip": "nowhere"}, False),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:sourceip": "::ffff:10.1.2.3"}, True),
        ({"Null": {"s3:prefix": "true"}}, {}, True),
        ({"Null": {"s3:prefix": False}}, {}, False),
        ({"ForAllValues:StringEquals": {"s3:prefix": "a"}}, {}, True),
        ({"ForAnyValue:StringEquals": {"s3:prefix": "a"}}, {"s3:prefix": "a"}, True),
        ({"StringEquals": {"s3:prefix": "a"}, "Bool": {"aws:SecureTransport": "true"}}, {"s3:prefix": "a"}, False),
    ],
)
def test_conditions(condition: Any, facts: dict[str, str], holds: bool) -> None:
    assert verdict(document(Condition=condition), facts=facts) == (ALLOW if holds else None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 5000,
        '{"Statement": []}',
        '{"Statement": "x"}',
        '{"Version": "2020", "Statement": []}',
        document(Effect="Maybe"),
        document(Principal=None),
        document(NotPrincipal="*"),
        document(Principal={"Animal": "*"}),
        document(Principal={"AWS": [1]}),
        document(Action=None),
        document(Action=[]),
        document(Action="ec2:Start"),
        document(Resource="arn:aws:sqs:::q"),
        document(Extra=1),
        document(Condition=[]),
        document(Condition={"StringSounds": {"a": "b"}}),
        document(Condition={"StringEquals": "a"}),
        document(Condition={"StringEquals": {"a": {"b": 1}}}),
        document(Sid="x" * 21_000),
        document(Resource="arn:aws:s3:::b/${aws:username}/*"),
        document(Condition={"StringEquals": {"s3:prefix": "${aws:username}"}}),
        document(Condition={"StringEquals": {"aws:SourceVpce": "vpce-1"}}),
        document(Condition={"StringEquals": {"s3:ExistingObjectTag/": "x"}}),
        document(Condition={"StringEquals": {"s3:prefix": []}}),
        document(Condition={"BinaryEquals": {"s3:prefix": "QQ=="}}),
        document(Condition={"IpAddress": {"aws:SourceIp": "everywhere"}}),
        document(Condition={"NumericEquals": {"s3:max-keys": "many"}}),
        document(Condition={"DateLessThan": {"aws:CurrentTime": "soon"}}),
        document(Condition={"Bool": {"aws:SecureTransport": "perhaps"}}),
    ],
)
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        compile_policy(text)
    assert refused.value.kind in ("MalformedPolicy", "MaxMessageLengthExceeded")


def test_which_policies_are_public() -> None:
    assert compile_policy(document()).public
    assert not compile_policy(document(Effect="Deny")).public
    assert not compile_policy(document(Principal={"AWS": "ann"})).public
    assert not compile_policy(document(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})).public
    assert compile_policy(document(Condition={"StringLike": {"aws:Referer": "*"}})).public
    assert compile_conditions({}) == ()


# -- access control lists


def known(user: str) -> bool:
    """Whether there is such a user."""
    return user in (ME, YOU)


@pytest.mark.parametrize(
    ("text", "user", "permission", "granted"),
    [
        ("private", ME, "READ", True),
        ("private", YOU, "READ", False),
        ("private", "", "READ", False),
        ("public-read", "", "READ", True),
        ("public-read", "", "WRITE", False),
        ("public-read-write", "", "WRITE", True),
        ("authenticated-read", "", "READ", False),
        ("authenticated-read", YOU, "READ", True),
        (json.dumps([[YOU, "FULL_CONTROL"]]), YOU, "WRITE_ACP", True),
        (json.dumps([[YOU, "READ"]]), ME, "READ", False),
        ("nonsense", ME, "READ", True),
        ("nonsense", YOU, "READ", False),
    ],
)
def test_lists_permit(text: str, user: str, permission: str, granted: bool) -> None:
    assert acl.permits(text, ME, user, permission) is granted


def test_lists_come_back_as_they_were_put() -> None:
    for name in ("private", "public-read", "public-read-write", "authenticated-read"):
        shown = acl.to_document(name, {"ID": ME, "DisplayName": "me"}, lambda _user: "me")
        assert acl.from_document(shown, ME, known) == name
    text = acl.from_headers(
        {"GrantRead": f'id="{YOU}", uri={acl.ALL_USERS}', "GrantFullControl": f"id={ME}"}, ME, known
    )
    assert text is not None
    shown = acl.to_document(text, {"ID": ME, "DisplayName": "me"}, lambda _user: "x")
    assert set(acl.grants_of(acl.from_document(shown, ME, known), ME)) == set(acl.grants_of(text, ME))
    assert acl.public(text)
    assert not acl.public("private")
    assert acl.from_headers({}, ME, known) is None


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"ACL": "everything"}, "InvalidArgument"),
        ({"ACL": "private", "GrantRead": f"id={ME}"}, "InvalidRequest"),
        ({"GrantRead": "id=nobody"}, "InvalidArgument"),
        ({"GrantRead": "uri=http://x"}, "InvalidArgument"),
        ({"GrantRead": "what"}, "InvalidArgument"),
        ({"GrantRead": "emailAddress=a@b"}, "UnresolvableGrantByEmailAddress"),
        ({"GrantRead": ",".join([f"id={ME}"] * 101)}, "MalformedACLError"),
    ],
)
def test_wrong_headers(params: dict[str, str], kind: str) -> None:
    with pytest.raises(Invalid) as refused:
        acl.from_headers(params, ME, known)
    assert refused.value.kind == kind


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"Grants": None}, "MalformedACLError"),
        ({"Owner": {"ID": YOU}}, "AccessDenied"),
        ({"Grants": [{"Grantee": {"Type": "CanonicalUser", "ID": ME}, "Permission": "ALL"}]}, "MalformedACLError"),
        ({"Grants": [{"Grantee": {"Type": "Robot", "ID": ME}, "Permission": "READ"}]}, "MalformedACLError"),
        ({"Grants": [{"Grantee": {"Type": "CanonicalUser", "ID": "x"}, "Permission": "READ"}]}, "InvalidArgument"),
    ],
)
def test_wrong_documents(changed: dict[str, Any], kind: str) -> None:
    whole: dict[str, Any] = {"Owner": {"ID": ME}, "Grants": []} | changed
    with pytest.raises(HeadraceError) as refused:
        acl.from_document({name: value for name, value in whole.items() if value is not None}, ME, known)
    assert refused.value.kind == kind
