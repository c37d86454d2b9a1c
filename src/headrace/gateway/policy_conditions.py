"""The Condition blocks of bucket policies: operators of the IAM policy language, compiled. Pure."""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from headrace.base.errors import Invalid
from headrace.gateway.times import parse_time

Facts = Callable[[str], Sequence[str] | None]
"""What is known of a request: condition key in lower case -> values; None when the key is absent."""

Test = Callable[[str, str], bool]
"""(value in the request, value in the policy) -> matches."""


def _like(value: str, pattern: str) -> bool:
    translated = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(translated, value, re.DOTALL) is not None


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
        return ipaddress.ip_address(value) in ipaddress.ip_network(network, strict=False)
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
    "binaryequals": (operator.eq, False),
    "ipaddress": (_in_network, False),
    "notipaddress": (_in_network, True),
}
_RESTRICTING = frozenset({"aws:sourceip", "aws:sourcearn", "aws:sourcevpc", "aws:sourcevpce", "aws:principalarn",
                          "aws:principalaccount", "aws:sourceaccount", "aws:userid", "aws:username"})  # fmt: skip


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
            raise Invalid(f"The policy is malformed: unknown condition operator {name}.", kind="MalformedPolicy")
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
        raise Invalid("The policy is malformed: Condition must be an object.", kind="MalformedPolicy")
    found: list[Condition] = []
    for name, keys in block.items():
        if not isinstance(keys, dict):
            raise Invalid("The policy is malformed: a condition must name keys.", kind="MalformedPolicy")
        for key, wanted in keys.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            if not all(isinstance(value, str | bool | int | float) for value in values):
                raise Invalid("The policy is malformed: a condition value is no text.", kind="MalformedPolicy")
            texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
            found.append(Condition(name, key, texts))
    return tuple(found)
