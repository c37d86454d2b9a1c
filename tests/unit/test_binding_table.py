"""Bindings: durable, one per bucket, ids that belong to a (bucket, URL) pair for ever."""

from __future__ import annotations

import pytest

from headrace.base.errors import Conflict, Invalid, NotFound
from headrace.gateway.bindings import ACCOUNT, ADDED, FLAG, BindingTable, parse_freshness
from headrace.wire.words import Words


@pytest.fixture
def words(tmp_path):
    words = Words(tmp_path / "words")
    yield words
    words.close()


@pytest.fixture
def table(tmp_path, words):
    table = BindingTable(tmp_path / "node.db", words)
    yield table
    table.close()


def test_added_bindings_survive(table, tmp_path, words):
    added = table.add("photos", "s3://my-photos", (("raw/", "immutable"),))
    again = BindingTable(tmp_path / "node.db", words)
    assert again.find("photos") == added
    assert again.by_id(added.id) == added
    assert again.source("photos") == ADDED
    again.close()


def test_other_processes_see_changes_by_the_word(table, tmp_path, words):
    other = BindingTable(tmp_path / "node.db", words)
    assert other.find("photos") is None
    table.add("photos", "s3://a")
    assert other.find("photos") is not None
    table.remove("photos")
    assert other.find("photos") is None
    other.close()


def test_an_id_belongs_to_bucket_and_url(table):
    first = table.add("photos", "s3://a")
    table.remove("photos")
    second = table.add("photos", "s3://b")
    assert second.id != first.id
    with pytest.raises(NotFound):
        table.by_id(first.id)
    table.remove("photos")
    assert table.add("photos", "s3://a").id == first.id


def test_a_bound_bucket_is_not_bound_elsewhere_by_accident(table):
    table.add("photos", "s3://a")
    with pytest.raises(Conflict, match="bucket remove photos"):
        table.add("photos", "s3://b")
    assert table.add("photos", "s3://a", (("", "immutable"),)).rules == (("", "immutable"),)


def test_flags_come_and_go_and_added_ones_stay(table):
    table.add("kept", "s3://kept")
    table.set_flags([("photos", "s3://a"), ("kept", "s3://kept")])
    number = table.find("photos").id
    assert table.source("photos") == FLAG
    assert table.source("kept") == ADDED
    table.set_flags([])
    assert [binding.bucket for binding in table.list()] == ["kept"]
    table.set_flags([("photos", "s3://a")])
    assert table.find("photos").id == number


def test_a_flag_wins_over_what_was_added(table):
    table.add("photos", "s3://a")
    table.set_flags([("photos", "s3://b")])
    assert table.find("photos").url == "s3://b"


def test_accounts_bring_only_what_is_not_bound(table, words):
    table.add("photos", "s3://mine")
    assert table.set_account([("photos", "s3://photos/"), ("logs", "s3://logs/")])
    assert table.find("photos").url == "s3://mine"
    assert table.source("logs") == ACCOUNT
    stamp = table.generation
    assert not table.set_account([("photos", "s3://photos/"), ("logs", "s3://logs/")])
    assert table.generation == stamp
    assert table.set_account([("photos", "s3://photos/")])
    assert table.find("logs") is None


def test_a_failed_change_changes_nothing(table):
    table.add("taken", "s3://a")
    with pytest.raises(Conflict):
        table._change([("fresh", "s3://x", ()), ("taken", "s3://b", ())], ADDED, replace=False)
    assert table.find("fresh") is None


@pytest.mark.parametrize(
    ("bucket", "url", "rules"),
    [
        ("Upper", "s3://a", ()),
        ("a..b", "s3://a", ()),
        ("ab", "s3://a", ()),
        ("photos", "s3://", ()),
        ("photos", "ftp://a", ()),
        ("photos", "s3://a", (("", "sometimes"),)),
        ("photos", "s3://a", (("x" * 2000, "immutable"),)),
    ],
)
def test_bad_bindings_are_refused(table, bucket, url, rules):
    with pytest.raises(Invalid):
        table.add(bucket, url, rules)
    assert table.list() == []


def test_settings_rules_come_after_a_bindings_own(tmp_path, words):
    rules = [parse_freshness(text) for text in ("photos/=immutable", "*/=lease(5s)", "*/tmp/=validate")]
    table = BindingTable(tmp_path / "node.db", words, rules)
    table.add("photos", "s3://a", (("tmp/", "lease(1s)"),))
    table.add("logs", "s3://b")
    assert dict(table.find("photos").rules) == {"tmp/": "lease(1s)", "": "immutable"}
    assert dict(table.find("logs").rules) == {"": "lease(5s)", "tmp/": "validate"}
    table.close()


@pytest.mark.parametrize("text", ["photos", "=immutable", "photos/=never", "/x=immutable"])
def test_bad_freshness(text):
    with pytest.raises(Invalid):
        parse_freshness(text)
