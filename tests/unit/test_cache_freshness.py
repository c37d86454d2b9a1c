"""Freshness rules: what they say and which one governs a key."""

from __future__ import annotations

import pytest

from headrace.base.errors import Invalid
from headrace.cache.freshness import IMMUTABLE, VALIDATE, Decision, Mode, Rule, Rules, decide, parse
from headrace.model.bindings import Binding


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("lease(30s)", 30), ("lease(1.5h)", 5400), ("lease( 200 ms )", 0.2), ("LEASE(2d)", 172800), ("lease(7)", 7)],
)
def test_leases_are_read_in_any_unit(text: str, seconds: float) -> None:
    assert parse(text) == Rule(Mode.LEASE, seconds)
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize("text", ["", "lease", "lease()", "lease(0s)", "lease(-1s)", "lease(8d)", "lease(1y)", "fresh"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse(text)


def test_the_longest_prefix_wins_and_validate_is_the_default() -> None:
    rules = Rules()
    binding = Binding(1, "b", "s3://b", (("data/", "immutable"), ("data/live/", "lease(5s)")))
    assert rules.rule(binding, "data/x") == IMMUTABLE
    assert rules.rule(binding, "data/live/x") == Rule(Mode.LEASE, 5)
    assert rules.rule(binding, "other") == VALIDATE
    assert rules.rule(binding._replace(rules=(("", "immutable"),)), "other") == IMMUTABLE


def test_decisions() -> None:
    lease = parse("lease(10s)")
    assert [decide(rule, None) for rule in (VALIDATE, lease, IMMUTABLE)] == [Decision.OPEN] * 3
    assert decide(VALIDATE, 0.0) is Decision.ASK
    assert decide(lease, 9.9) is Decision.TRUST
    assert decide(lease, 10.1) is Decision.ASK
    assert decide(lease, -5.0) is Decision.ASK
    assert decide(IMMUTABLE, 1e9) is Decision.TRUST
