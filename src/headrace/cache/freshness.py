"""How long what is known of an object may be believed: `validate`, `lease(30s)` or `immutable`.

Rules are declared per key prefix of a binding; the longest matching prefix wins, and `validate`
holds where none matches. Everything here is pure.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from headrace.base import errors, limits
from headrace.model.bindings import Binding

_LEASE = re.compile(r"lease\(\s*(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h|d)?\s*\)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}


class Mode(Enum):
    """What makes cached metadata good enough."""

    VALIDATE = "validate"
    LEASE = "lease"
    IMMUTABLE = "immutable"


class Rule(NamedTuple):
    """One rule; `seconds` is how old metadata may be under a lease."""

    mode: Mode
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"lease({self.seconds:g}s)" if self.mode is Mode.LEASE else self.mode.value


VALIDATE = Rule(Mode.VALIDATE)
IMMUTABLE = Rule(Mode.IMMUTABLE)


class Decision(Enum):
    """What to do with a request before its bytes are looked for."""

    OPEN = "open"
    """Nothing is known: one GET at the origin tells what it is and brings the first block."""
    ASK = "ask"
    """Something is known, but only the origin can say whether it still holds: one HEAD."""
    TRUST = "trust"
    """What is known holds."""


def parse(text: str) -> Rule:
    """The rule that `text` names. Raises Invalid."""
    text = text.strip().lower()
    if text == "validate":
        return VALIDATE
    if text == "immutable":
        return IMMUTABLE
    match = _LEASE.fullmatch(text)
    if match is None:
        raise errors.Invalid(
            f"{text!r} is no freshness rule: write validate, immutable or lease(TIME), as in lease(30s)",
            kind="InvalidArgument",
        )
    seconds = float(match[1]) * _UNITS[match[2]]
    if not 0 < seconds <= limits.LEASE_SECONDS_MAX:
        raise errors.Invalid(
            f"a lease lasts more than 0 and at most {limits.LEASE_SECONDS_MAX:g} seconds, not {seconds:g}",
            kind="InvalidArgument",
        )
    return Rule(Mode.LEASE, seconds)


def rule_for(rules: tuple[tuple[str, Rule], ...], key: str) -> Rule:
    """The rule of the longest prefix that `key` starts with; VALIDATE where there is none."""
    best, length = VALIDATE, -1
    for prefix, rule in rules:
        if len(prefix) > length and key.startswith(prefix):
            best, length = rule, len(prefix)
    return best


def decide(rule: Rule, age_seconds: float | None) -> Decision:
    """What to do when metadata was last confirmed `age_seconds` ago (None: nothing is known)."""
    if age_seconds is None:
        return Decision.OPEN
    if rule.mode is Mode.IMMUTABLE:
        return Decision.TRUST
    if rule.mode is Mode.LEASE and 0 <= age_seconds <= rule.seconds:
        return Decision.TRUST
    return Decision.ASK


class Rules:
    """The rules of bindings, parsed once for each binding value."""

    __slots__ = ("_parsed",)

    def __init__(self) -> None:
        self._parsed: dict[int, tuple[Binding, tuple[tuple[str, Rule], ...]]] = {}

    def rule(self, binding: Binding, key: str) -> Rule:
        """The rule that governs `key`. Raises Invalid when the binding's rules are malformed."""
        known = self._parsed.get(binding.id)
        if known is None or known[0] != binding:
            known = binding, tuple((prefix, parse(rule)) for prefix, rule in binding.rules)
            self._parsed[binding.id] = known
        parsed = known[1]
        return rule_for(parsed, key) if parsed else VALIDATE
