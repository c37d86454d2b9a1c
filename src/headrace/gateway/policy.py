"""Bucket policies: a document checked and compiled, and its verdict on one request. Pure.

Source: "Policies and permissions in Amazon S3" and the IAM policy language reference. A Deny that
matches wins over every Allow; without a match there is no verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from headrace.base.errors import Invalid
from headrace.base.limits import POLICY_BYTES_MAX
from headrace.gateway.globs import Matcher, check_glob, glob
from headrace.gateway.policy_conditions import Condition, Facts, compile_conditions

ALLOW = "Allow"
DENY = "Deny"
_RESOURCE = "arn:aws:s3:::"
_VERSIONS = ("2008-10-17", "2012-10-17")
_STATEMENT_FIELDS = {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource",
                     "Condition"}  # fmt: skip
_USER_ARN = re.compile(r"arn:aws:iam::[^:]*:(?:user/(?:.*/)?([^/]+)|root)\Z")


class Principals(NamedTuple):
    """Whom a statement is about: everyone, or users by any of their names."""

    everyone: bool
    names: frozenset[str]

    def match(self, aliases: Sequence[str]) -> bool:
        """True when one of the caller's names is meant; `aliases` is empty for anonymous callers."""
        return self.everyone or not self.names.isdisjoint(aliases)


class Statement(NamedTuple):
    """One compiled statement."""

    effect: str
    principals: Principals
    excluded: bool
    actions: Matcher
    resources: Matcher
    conditions: tuple[Condition, ...]


class Policy(NamedTuple):
    """A compiled document."""

    statements: tuple[Statement, ...]

    def verdict(self, aliases: Sequence[str], action: str, resource: str, facts: Facts) -> str | None:
        """ALLOW, DENY or None (no statement matches).

        `aliases`: the caller's names (empty: anonymous). `action`: `s3:GetObject`. `resource`:
        `bucket` or `bucket/key`. `facts`: condition key in lower case -> its values, None when absent.
        """
        allowed = False
        for statement in self.statements:
            if statement.principals.match(aliases) == statement.excluded:
                continue
            if not (statement.actions(action.lower()) and statement.resources(resource)):
                continue
            if not all(condition(facts) for condition in statement.conditions):
                continue
            if statement.effect == DENY:
                return DENY
            allowed = True
        return ALLOW if allowed else None

    @property
    def public(self) -> bool:
        """True when anyone at all is allowed something, whatever the circumstances."""
        return any(
            statement.effect == ALLOW
            and (statement.excluded or statement.principals.everyone)
            and not any(condition.restricts for condition in statement.conditions)
            for statement in self.statements
        )


def _malformed(why: str) -> Invalid:
    return Invalid(f"The policy is malformed: {why}.", kind="MalformedPolicy")


def _texts(value: Any, what: str) -> list[str]:
    """A string or a list of strings as a list."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str) and item for item in values):
        raise _malformed(f"{what} must be a string or a list of strings")
    return values


def _globs(patterns: Sequence[str]) -> Matcher:
    for pattern in patterns:
        try:
            check_glob(pattern)
        except Invalid as problem:
            raise _malformed(str(problem)) from None
    return glob(patterns)


def _principals(value: Any) -> Principals:
    if value == "*":
        return Principals(True, frozenset())
    if not isinstance(value, dict) or not value or not set(value) <= {"AWS", "CanonicalUser", "Service", "Federated"}:
        raise _malformed('Principal must be "*" or name AWS or CanonicalUser principals')
    everyone = False
    names: set[str] = set()
    for kind, entries in value.items():
        for name in _texts(entries, "Principal"):
            found = _USER_ARN.match(name)
            if kind in ("AWS", "CanonicalUser") and name == "*":
                everyone = True
            elif kind == "AWS" and found is not None:
                names.add(found[1] or name.split(":")[4])
            elif kind in ("AWS", "CanonicalUser"):
                names.add(name)
    return Principals(everyone, frozenset(names))


def _either(statement: dict[str, Any], name: str) -> tuple[list[str], bool]:
    """The values of `Name` or `NotName`, and whether it was the latter."""
    present = [field for field in (name, f"Not{name}") if field in statement]
    if len(present) != 1:
        raise _malformed(f"a statement needs one of {name} and Not{name}")
    return _texts(statement[present[0]], name), present[0] != name


def _negated(matcher: Matcher, negate: bool) -> Matcher:
    return (lambda text: not matcher(text)) if negate else matcher


def _statement(statement: Any) -> Statement:
    if not isinstance(statement, dict) or not set(statement) <= _STATEMENT_FIELDS:
        raise _malformed("a statement has an unknown field")
    if statement.get("Effect") not in (ALLOW, DENY):
        raise _malformed("Effect must be Allow or Deny")
    excluded = "NotPrincipal" in statement
    if excluded == ("Principal" in statement):
        raise _malformed("a statement needs one of Principal and NotPrincipal")
    actions, not_actions = _either(statement, "Action")
    if not all(action == "*" or action.lower().startswith("s3:") for action in actions):
        raise _malformed("an Action is not one of S3")
    resources, not_resources = _either(statement, "Resource")
    if not all(resource == "*" or resource.startswith(_RESOURCE) for resource in resources):
        raise _malformed(f"a Resource does not start with {_RESOURCE}")
    if any("${" in resource for resource in resources):
        raise _malformed("headrace knows no policy variables, which a Resource names")
    action_matcher = _globs([action.lower() for action in actions])
    resource_matcher = _globs([resource.removeprefix(_RESOURCE) for resource in resources])
    return Statement(
        effect=statement["Effect"],
        principals=_principals(statement["NotPrincipal" if excluded else "Principal"]),
        excluded=excluded,
        actions=_negated(action_matcher, not_actions),
        resources=_negated(resource_matcher, not_resources),
        conditions=compile_conditions(statement.get("Condition", {})),
    )


@lru_cache(maxsize=1024)
def compile_policy(document: str) -> Policy:
    """Check and compile a document. Raises Invalid (MalformedPolicy, MaxMessageLengthExceeded)."""
    if len(document.encode("utf-8", "replace")) > POLICY_BYTES_MAX:
        raise Invalid(f"A policy is at most {POLICY_BYTES_MAX} bytes.", kind="MaxMessageLengthExceeded")
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        raise Invalid("This policy contains invalid Json", kind="MalformedPolicy") from None
    if not isinstance(content, dict) or not set(content) <= {"Version", "Id", "Statement"}:
        raise _malformed("it has an unknown field")
    if content.get("Version", _VERSIONS[0]) not in _VERSIONS:
        raise _malformed("its Version is unknown")
    statements = content.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise _malformed("it has no Statement")
    return Policy(tuple(_statement(statement) for statement in statements))
