"""Buckets of accounts: who asks an account how often, and what stands when it does not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from headrace.base.errors import Busy, Unavailable
from headrace.gateway.bindings import BindingTable
from headrace.origin.factory import Origins
from headrace.origin.urls import parse
from headrace.serve import bindings as module
from headrace.serve.bindings import NodeBindings
from headrace.wire.words import Words


class Account:
    """An account whose list is at hand, fails, or never comes."""

    url = parse("s3://")

    def __init__(self, *buckets):
        self.held = dict.fromkeys(buckets, 1_700_000_000_000)
        self.asked = 0
        self.failure = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def buckets(self, *, seconds_old_max=60.0):
        """The list as it was when asked for, told when the gate opens."""
        self.asked += 1
        held = dict(self.held)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return held

    def origin(self, bucket):
        """Any origin will do."""
        return SimpleNamespace(local=False, url=bucket)

    async def close(self):
        """Nothing is open."""


class Clock:
    """Steady time that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def steady(self):
        """Seconds."""
        return self.now

    def wall(self):
        """Seconds since 1970."""
        return 1_750_000_000.0


@pytest.fixture
def time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "clock", clock)
    return clock


@pytest.fixture
def node(tmp_path):
    """Makes bindings of one more process each; all share a table and an account."""
    words = Words(tmp_path / "words")
    tables = []

    def make(account):
        tables.append(BindingTable(tmp_path / "node.db", words))
        made = NodeBindings(tables[-1], Origins(), [])
        made.accounts = [account]
        return made

    yield make
    for table in tables:
        table.close()
    words.close()


def names(bindings):
    return [target.bucket for target in bindings.listed()]


async def test_unknown_names_ask_the_account_once_in_a_while(node, time):
    account = Account("one-bucket")
    bindings = node(account)
    assert await bindings.discover("one-bucket")
    found = await asyncio.gather(*(bindings.discover(f"none-{number}") for number in range(50)))
    assert (found, account.asked) == ([False] * 50, 1)
    account.held["late"] = 1
    time.now += module.ACCOUNT_DISCOVER_SECONDS + 0.1
    assert await bindings.discover("late")  # also for a name that was asked for before
    assert account.asked == 2


async def test_a_name_asked_for_too_early_appears_in_time(node, time):
    account = Account()
    bindings = node(account)
    assert not await bindings.discover("late")
    account.held["late"] = 1
    time.now += module.ACCOUNT_DISCOVER_SECONDS - 0.1
    assert not await bindings.discover("late")
    time.now += 0.2
    assert await bindings.discover("late")


async def test_a_silent_account_holds_nobody_for_long(node, monkeypatch):
    monkeypatch.setattr(module, "ACCOUNT_ANSWER_SECONDS_MAX", 0.05)
    account = Account("one-bucket")
    bindings = node(account)
    await bindings.renew()
    account.gate.clear()
    await asyncio.wait_for(asyncio.gather(*(bindings.renew() for _ in range(5))), 10)
    assert names(bindings) == ["one-bucket"]
    assert account.asked == 2
    fresh = node(account)
    outcomes = await asyncio.wait_for(
        asyncio.gather(*(fresh.discover(f"name-{number}") for number in range(5)), return_exceptions=True), 10
    )
    assert all(isinstance(outcome, Busy | Unavailable) for outcome in outcomes)


async def test_a_failing_account_keeps_its_last_list(node, time):
    account = Account("one-bucket")
    bindings = node(account)
    await bindings.renew()
    account.failure = Unavailable("no route")
    time.now += 1
    for _ in range(5):
        await bindings.renew()
    assert names(bindings) == ["one-bucket"]
    assert bindings.listed()[0].created_ms == 1_700_000_000_000
    assert account.asked == 2
    time.now += module.ACCOUNT_DISCOVER_SECONDS + 0.1
    with pytest.raises(Unavailable):
        await bindings.discover("unknown")
    account.failure = None
    time.now += module.ACCOUNT_DISCOVER_SECONDS + 0.1
    account.held["two"] = 2
    await bindings.renew()
    assert names(bindings) == ["one-bucket", "two"]


async def test_concurrent_listings_share_an_answer_that_began_after_them(node):
    account = Account("one-bucket")
    bindings = node(account)
    account.gate.clear()
    first = asyncio.create_task(bindings.renew())
    await asyncio.sleep(0.01)
    account.held["two"] = 2  # before the others came: they must see it
    others = [asyncio.create_task(bindings.renew()) for _ in range(20)]
    await asyncio.sleep(0.01)
    account.gate.set()
    await asyncio.gather(first, *others)
    assert (names(bindings), account.asked) == (["one-bucket", "two"], 2)


async def test_all_processes_see_what_one_made_and_deleted_at_once(node):
    account = Account("one-bucket")
    here, there = node(account), node(account)
    await here.renew()
    account.gate.clear()
    running = asyncio.create_task(there.renew())  # its list knows nothing of what follows
    await asyncio.sleep(0.01)
    account.held["made"] = 1_750_000_000_500
    here.created("made")
    assert there.target("made") is not None
    assert here.target("made").created_ms > 1_700_000_000_000
    account.gate.set()
    await running
    assert names(there) == ["made", "one-bucket"]
    assert there.target("made").created_ms == 1_750_000_000_500
    account.gate.clear()
    running = asyncio.create_task(there.renew())
    await asyncio.sleep(0.01)
    del account.held["made"]
    here.deleted("made")
    assert there.target("made") is None
    account.gate.set()
    await running
    assert names(there) == names(here) == ["one-bucket"]


async def test_what_was_bound_by_hand_stays(node):
    bindings = node(Account())
    bindings.table.add("by-hand", "s3://somewhere/")
    bindings.created("by-hand")
    bindings.deleted("by-hand")
    assert bindings.table.find("by-hand").url == "s3://somewhere/"
