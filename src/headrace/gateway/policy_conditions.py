"""The Condition blocks of bucket policies: operators of the IAM policy language, compiled. Pure."""

from __future__ import annotations

import ipaddress
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from headrace.base.errors import Invalid
from headrace.gateway.globs import Matcher, check_glob, glob
from headrace.gateway.times import parse_time

Facts = Callable[[str], Sequence[str] | None]
"""What is known of a request: condition key in lower case -> values; None when the key is absent."""

Test = Callable[[str, str], bool]
"""(value in the request, value in the policy) -> matches."""


@lru_cache(maxsize=4096)
def _pattern(pattern: str) -> Matcher:
    return glob((pattern,))


def _like(value: str, pattern: str) -> bool:
    return _pattern(pattern)(value)


def _numeric(compare: Callable[[float, float], bool]) -> Test:
    def test(value: str, wanted: str) -> bool:
        try:
            return compare(float(value), float(wanted))
        except ValueError:
            return False

    return test


def _date(compare: Callable[[float, float], bool]) -> Test:
    def test(value: str, wanted: str) -> bool:
        left, right = parse_time(value), parse_time(wanted)
        return left is not None and right is not None and compare(left, right)

    return test


def _in_network(value: str, network: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # how a socket for both families names an IPv4 peer
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _same_ignoring_case(value: str, wanted: str) -> bool:
    return value.lower() == wanted.lower()


# Name -> (test, negated). A negated operator holds when no policy value matches, also for absent keys.
_OPERATORS: dict[str, tuple[Test, bool]] = {
    "stringequals": (operator.eq, False),
    "stringnotequals": (operator.eq, True),
    "stringequalsignorecase": (_same_ignoring_case, False),
    "stringnotequalsignorecase": (_same_ignoring_case, True),
    "stringlike": (_like, False),
    "stringnotlike": (_like, True),
    "arnequals": (_like, False),
    "arnlike": (_like, False),
    "arnnotequals": (_like, True),
    "arnnotlike": (_like, True),
    "numericequals": (_numeric(operator.eq), False),
    "numericnotequals": (_numeric(operator.eq), True),
    "numericlessthan": (_numeric(operator.lt), False),
    "numericlessthanequals": (_numeric(operator.le), False),
    "numericgreaterthan": (_numeric(operator.gt), False),
    "numericgreaterthanequals": (_numeric(operator.ge), False),
    "dateequals": (_date(operator.eq), False),
    "datenotequals": (_date(operator.eq), True),
    "datelessthan": (_date(operator.lt), False),
    "datelessthanequals": (_date(operator.le), False),
    "dategreaterthan": (_date(operator.gt), False),
    "dategreaterthanequals": (_date(operator.ge), False),
    "bool": (_same_ignoring_case, False),
    "ipaddress": (_in_network, False),
    "notipaddress": (_in_network, True),
}
_RESTRICTING = frozenset({"aws:sourceip", "aws:userid", "aws:username"})
KNOWN_KEYS = frozenset(
    {"aws:currenttime", "aws:epochtime", "aws:referer", "aws:securetransport", "aws:sourceip", "aws:useragent",
     "aws:userid", "aws:username", "s3:authtype", "s3:delimiter", "s3:max-keys", "s3:prefix", "s3:signatureversion",
     "s3:versionid"}
)  # fmt: skip
"""Condition keys that `access` finds out about a request; a policy that names another could not be enforced."""
_KNOWN_FAMILIES = ("s3:existingobjecttag/", "s3:requestobjecttag/", "s3:x-amz-")


def _malformed(why: str) -> Invalid:
    return Invalid(f"The policy is malformed: {why}.", kind="MalformedPolicy")


def _check_key(key: str) -> None:
    """Refuse a condition key that is never known here: it would be accepted and not enforced."""
    name = key.lower()
    if name not in KNOWN_KEYS and not (name.startswith(_KNOWN_FAMILIES) and name not in _KNOWN_FAMILIES):
        raise _malformed(f"headrace cannot evaluate the condition key {key!r}")


def _check_value(operation: str, value: str) -> None:
    """Refuse a value that the operator could never compare, or a policy variable."""
    sound = True
    if operation.endswith("ipaddress"):
        try:
            ipaddress.ip_network(value, strict=False)
        except ValueError:
            sound = False
    elif operation.startswith("date"):
        sound = parse_time(value) is not None
    elif operation.startswith("numeric"):
        sound = _numeric(operator.eq)(value, value)
    elif operation in ("bool", "null"):
        sound = value.lower() in ("true", "false")
    elif _OPERATORS[operation][0] is _like:
        try:
            check_glob(value)
        except Invalid as problem:
            raise _malformed(str(problem)) from None
    if not sound:
        raise _malformed(f"{value!r} is no value for {operation}")
    if "${" in value:
        raise _malformed(f"headrace knows no policy variables such as in {value!r}")


class Condition:
    """One operator on one key. All conditions of a statement must hold."""

    __slots__ = ("_absent_holds", "_each", "_key", "_negated", "_null", "_test", "_values")

    def __init__(self, name: str, key: str, values: Sequence[str]) -> None:
        base = name.lower()
        self._each = ""
        for qualifier in ("forallvalues:", "foranyvalue:"):
            if base.startswith(qualifier):
                self._each, base = qualifier, base.removeprefix(qualifier)
        if_exists = base.endswith("ifexists")
        base = base.removesuffix("ifexists")
        self._key = key.lower()
        self._values = tuple(values)
        self._null = base == "null"
        if not self._null and base not in _OPERATORS:
            raise _malformed(f"headrace cannot evaluate the condition operator {name!r}")
        _check_key(key)
        for value in values:
            _check_value(base, value)
        test: tuple[Test, bool] = (operator.eq, False) if self._null else _OPERATORS[base]
        self._test, self._negated = test
        self._absent_holds = if_exists or self._negated or self._each == "forallvalues:"

    @property
    def restricts(self) -> bool:
        """True when the condition narrows a statement to known callers, so that it isn't public."""
        return self._key in _RESTRICTING and not self._negated and "*" not in self._values

    def __call__(self, facts: Facts) -> bool:
        """Whether the request satisfies the condition."""
        found = facts(self._key)
        if self._null:
            return any((found is None) == (value.lower() == "true") for value in self._values)
        if found is None:
            return self._absent_holds
        judged = [any(self._test(value, wanted) for wanted in self._values) != self._negated for value in found]
        if self._each == "foranyvalue:" or (not self._each and not self._negated):
            return any(judged)
        return all(judged)


def compile_conditions(block: Any) -> tuple[Condition, ...]:
    """All conditions of a statement. Raises Invalid (MalformedPolicy)."""
    if not isinstance(block, dict):
        raise _malformed("Condition must be an object")
    found: list[Condition] = []
    for name, keys in block.items():
        if not isinstance(keys, dict):
            raise _malformed("a condition must name keys")
        for key, wanted in keys.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            if not values or not all(isinstance(value, str | bool | int | float) for value in values):
                raise _malformed("a condition value is no text")
            texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
            found.append(Condition(name, key, texts))
    return tuple(found)
