"""Access keys: made, found, allowed, revoked at once in every process, kept private."""

from __future__ import annotations

import sqlite3
import stat

import pytest

from headrace.base.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.gateway.keyring import ADMIN_POLICY, OWN, Keyring, Rule, parse_rule, user_id
from headrace.gateway.messages import ANONYMOUS
from headrace.wire.words import KEYS, Words


@pytest.fixture
def words(tmp_path):
    words = Words(tmp_path / "words")
    yield words
    words.close()


@pytest.fixture
def open_keyring(tmp_path):
    opened = []

    def make(words=None):
        opened.append(Keyring(tmp_path / "node.db", words))
        return opened[-1]

    yield make
    for keyring in opened:
        keyring.close()


def test_a_key_is_found_with_secret_name_and_number(open_keyring, words):
    keyring = open_keyring(words)
    made = keyring.create("alice")
    assert keyring.secret(made.access_key) == made.secret_key
    assert made.number == 1
    identity = keyring.identity(made.access_key)
    assert (identity.name, identity.admin) == ("alice", False)
    assert keyring.secret("nobody") is None
    assert keyring.identity("nobody") is None


def test_secrets_are_unlike_and_the_file_is_private(open_keyring, tmp_path):
    keyring = open_keyring()
    first, second = keyring.create(), keyring.create()
    assert first.secret_key != second.secret_key
    assert first.access_key != second.access_key
    for path in tmp_path.glob("node.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_was_open_to_others_is_closed_to_them(tmp_path):
    path = tmp_path / "node.db"
    path.touch(mode=0o644)
    Keyring(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_process_sees_creation_and_revocation_by_the_word(open_keyring, words):
    worker, command = open_keyring(words), open_keyring(words)
    assert worker.list() == []
    made = command.create("alice")
    assert worker.secret(made.access_key) == made.secret_key
    command.revoke(made.access_key)
    assert worker.secret(made.access_key) is None
    assert not worker.allows(worker.identity(made.access_key) or ANONYMOUS, "read", "b", "k")


def test_without_a_stamp_the_copy_is_kept(open_keyring, words):
    keyring = open_keyring(words)
    made = keyring.create()
    assert keyring.secret(made.access_key)
    keyring._database.execute("DELETE FROM access_keys")
    assert keyring.secret(made.access_key) == made.secret_key
    words.stamp(KEYS)
    assert keyring.secret(made.access_key) is None


def test_an_unreadable_database_denies_instead_of_trusting_the_copy(open_keyring, words, tmp_path):
    keyring = open_keyring(words)
    made = keyring.create()
    assert keyring.secret(made.access_key)
    other = sqlite3.connect(tmp_path / "node.db")
    other.execute("DROP TABLE access_keys")
    other.close()
    words.stamp(KEYS)
    with pytest.raises(Unavailable):
        keyring.secret(made.access_key)


def test_numbers_are_never_given_twice(open_keyring):
    keyring = open_keyring()
    first = keyring.create()
    keyring.revoke(first.access_key)
    keyring.forget(first.access_key)
    assert keyring.create().number > first.number


def test_a_revoked_key_keeps_its_name_and_loses_its_secret(open_keyring):
    keyring = open_keyring()
    made = keyring.create()
    keyring.revoke(made.access_key)
    row = keyring._database.execute("SELECT secret_key FROM access_keys").fetchone()
    assert row == ("",)
    with pytest.raises(Conflict):
        keyring.create(access_key=made.access_key, secret_key="12345678")
    with pytest.raises(NotFound):
        keyring.revoke(made.access_key)


def test_ensure_makes_the_named_admin_and_is_idle_the_second_time(open_keyring, words):
    keyring = open_keyring(words)
    first = keyring.ensure("root-key", "secret-one")
    stamp = words.view[KEYS]
    assert first.admin
    assert keyring.ensure("root-key", "secret-one").number == first.number
    assert words.view[KEYS] == stamp
    keyring.ensure("root-key", "secret-two")
    assert keyring.secret("root-key") == "secret-two"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"access_key": "a b"}, "access key"),
        ({"access_key": "ab"}, "access key"),
        ({"access_key": "abc", "secret_key": "short"}, "secret"),
        ({"name": "x" * 200}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"policy": ()}, "rules"),
    ],
)
def test_what_nobody_could_use_is_refused(open_keyring, given, said):
    with pytest.raises(Invalid, match=said):
        open_keyring().create(**given)


def test_rules_cover_buckets_keys_and_actions(open_keyring):
    keyring = open_keyring()
    rules = (Rule("photos-*", ("read", "list")), Rule("scratch/tmp/*", ("write",)), Rule("exact", ("read",)))
    who = keyring.identity(keyring.create("x", rules).access_key)
    assert keyring.allows(who, "read", "photos-2024", "any/key")
    assert keyring.allows(who, "list", "photos-2024")
    assert not keyring.allows(who, "write", "photos-2024", "k")
    assert keyring.allows(who, "write", "scratch", "tmp/a\nb")
    assert not keyring.allows(who, "write", "scratch", "other")
    assert not keyring.allows(who, "write", "scratch")
    assert keyring.allows(who, "read", "exact", "k")
    assert not keyring.allows(who, "read", "exactly", "k")
    assert not keyring.allows(who, "read", "photos", "k")
    assert keyring.allows(who, "list")
    assert not keyring.allows(who, "admin")
    assert not keyring.allows(ANONYMOUS, "read", "photos-1", "k")


def test_signs_of_regular_expressions_mean_nothing(open_keyring):
    keyring = open_keyring()
    who = keyring.identity(keyring.create("x", (Rule("b/[a](.*)+", ("read",)),)).access_key)
    assert keyring.allows(who, "read", "b", "[a](.zz)+")
    assert not keyring.allows(who, "read", "b", "a.zz")


def test_own_rules_do_not_cover_others_buckets(open_keyring):
    keyring = open_keyring()
    who = keyring.identity(keyring.create("x").access_key)
    assert keyring.allows_own(who, "write")
    assert not keyring.allows_own(who, "admin")
    assert not keyring.allows(who, "read", "somebodys", "k")
    assert keyring.list()[0].policy[0].pattern == OWN


def test_one_name_is_one_user(open_keyring):
    keyring = open_keyring()
    first, second = keyring.create("alice", ADMIN_POLICY), keyring.create("alice")
    assert first.user_id == second.user_id == user_id("alice")
    assert len(first.user_id) == 64
    assert keyring.create("bob").user_id != first.user_id
    assert first.admin
    assert not second.admin


def test_rules_as_people_write_them():
    assert parse_rule("photos-*:read, list,read") == Rule("photos-*", ("read", "list"))
    for text in ("photos", ":read", "photos:", "photos:fly"):
        with pytest.raises(Invalid, match="Bad rule"):
            parse_rule(text)
