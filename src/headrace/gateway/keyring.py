"""Access keys and what each may do, in `DIR/node.db`, with an in-memory copy per process.

SigV4 needs the secret itself, so it is stored as it is; the file's mode 0600 protects it. A worker
asks one shared word per request whether anything changed since its copy was read, so a revocation
holds from the next request on, in every process.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from headrace.base import clock, rng
from headrace.base.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.base.files import private_file
from headrace.base.limits import DATABASE_BUSY_SECONDS_MAX, KEY_RULES_MAX, KEYS_MAX
from headrace.gateway.globs import Matcher, check_glob, glob
from headrace.gateway.messages import Identity
from headrace.wire.words import KEYS, Words

ACTIONS = ("read", "write", "list", "admin")
"""read: objects; write: objects and buckets; list: names; admin: bucket documents and, on `*`, the node."""
_ACCESS_KEY = re.compile(r"[A-Za-z0-9_.+-]{3,128}")
_SECRET_KEY = re.compile(r"[\x21-\x7e]{8,128}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS access_keys (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    access_key TEXT NOT NULL UNIQUE,
    secret_key TEXT NOT NULL,
    name TEXT NOT NULL,
    policy TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    revoked_ms INTEGER
)
"""


class Rule(NamedTuple):
    """Grants `actions` on buckets that match `pattern` (`*` and `?`), or on keys for `bucket/prefix*`."""

    pattern: str
    actions: tuple[str, ...]


OWN = "@own"
"""Pattern of a rule about the buckets that the key's user made, and those that nobody owns (bound ones)."""
ADMIN_POLICY = (Rule("*", ACTIONS),)
DEFAULT_POLICY = (Rule(OWN, ("read", "write", "list")),)


class AccessKey(NamedTuple):
    """One key as stored. `number` is small, permanent and stands for the key in read records."""

    number: int
    access_key: str
    secret_key: str
    name: str
    policy: tuple[Rule, ...]
    created_ms: int

    @property
    def user_id(self) -> str:
        """Canonical id of the user; keys of the same name belong to the same user."""
        return user_id(self.name)

    @property
    def admin(self) -> bool:
        """True when the key may administer the node."""
        return any(rule.pattern == "*" and "admin" in rule.actions for rule in self.policy)


def user_id(name: str) -> str:
    """The 64 hex digits by which S3 answers name the user `name`."""
    return hashlib.sha256(b"headrace user " + name.encode()).hexdigest()


def parse_rule(text: str) -> Rule:
    """`BUCKETS:ACTION,ACTION` such as `photos-*:read,list` as a rule. Raises Invalid."""
    pattern, colon, actions = text.rpartition(":")
    named = tuple(dict.fromkeys(action.strip() for action in actions.split(",")))
    if not colon or not pattern or not set(named) <= set(ACTIONS):
        raise Invalid(
            f"Bad rule {text!r}; write BUCKETS:ACTION,... with actions of {', '.join(ACTIONS)}, "
            "such as 'photos-*:read,list' or 'scratch/tmp/*:write'.",
            kind="InvalidArgument",
        )
    check_glob(pattern)
    return Rule(pattern, named)


class _Grant:
    """One key's policy compiled: per action the patterns on bucket names and on bucket/key names."""

    __slots__ = ("_buckets", "_keys", "key", "own")

    def __init__(self, key: AccessKey) -> None:
        self.key = key
        self.own = frozenset(action for rule in key.policy if rule.pattern == OWN for action in rule.actions)
        self._buckets: dict[str, Matcher | None] = {}
        self._keys: dict[str, Matcher | None] = {}
        for action in ACTIONS:
            patterns = [rule.pattern for rule in key.policy if action in rule.actions]
            self._buckets[action] = _compile([pattern for pattern in patterns if "/" not in pattern])
            self._keys[action] = _compile([pattern for pattern in patterns if "/" in pattern])

    def allows(self, action: str, bucket: str, key: str) -> bool:
        """Whether the policy grants `action` on the object, or on the bucket when `key` is empty."""
        buckets, keys = self._buckets[action], self._keys[action]
        if not bucket:
            return buckets is not None or keys is not None
        if buckets is not None and buckets(bucket):
            return True
        return keys is not None and keys(f"{bucket}/{key}")


def _compile(patterns: Sequence[str]) -> Matcher | None:
    """A matcher of a whole name; None for no patterns."""
    return glob(patterns) if patterns else None


class Keyring:
    """The keys of one data directory. One per process; not to be shared between threads.

    `words` is None in a command that runs beside no node: nothing is stamped then and every look-up
    reads the database.
    """

    def __init__(self, path: Path, words: Words | None = None) -> None:
        self.path = path
        self._words = words
        self._view = words.view if words is not None else None
        self._seen: int | None = None
        self._grants: dict[str, _Grant] = {}
        private_file(path)
        self._database = sqlite3.connect(path, timeout=DATABASE_BUSY_SECONDS_MAX, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @property
    def generation(self) -> int:
        """Changes whenever any key or policy does; one memory read."""
        return self._view[KEYS] if self._view is not None else 0

    # -- per request

    def secret(self, access_key: str) -> str | None:
        """The key's secret, None when there is no such key (any more). Raises Unavailable."""
        grant = self._current().get(access_key)
        return grant.key.secret_key if grant is not None else None

    def identity(self, access_key: str) -> Identity | None:
        """Who `access_key` is; None when there is no such key."""
        grant = self._current().get(access_key)
        if grant is None:
            return None
        return Identity(access_key=access_key, name=grant.key.name, admin=grant.key.admin)

    def allows(self, identity: Identity, action: str, bucket: str = "", key: str = "") -> bool:
        """Whether the policy of `identity`'s key grants `action`; an anonymous caller has no policy.

        With an empty `bucket` the question is whether the action is granted anywhere (ListBuckets).
        """
        grant = self._current().get(identity.access_key)
        return grant is not None and grant.allows(action, bucket, key)

    def allows_own(self, identity: Identity, action: str) -> bool:
        """Whether the policy grants `action` on buckets of the user's own, and on those nobody owns."""
        grant = self._current().get(identity.access_key)
        return grant is not None and action in grant.own

    def _current(self) -> dict[str, _Grant]:
        """The copy, read again when the word changed since. The word is noted *before* reading."""
        if self._view is not None:
            word = self._view[KEYS]
            if word == self._seen:
                return self._grants
        else:
            word = None
        try:
            self._grants = {key.access_key: _Grant(key) for key in self.list()}
        except sqlite3.Error as problem:
            raise Unavailable(f"Cannot read the access keys in {self.path}: {problem}.") from problem
        self._seen = word
        return self._grants

    # -- administration

    def create(
        self,
        name: str = "",
        policy: Sequence[Rule] = DEFAULT_POLICY,
        *,
        access_key: str = "",
        secret_key: str = "",
    ) -> AccessKey:
        """Store a new key; its parts are made up where not given. Raises Invalid, Conflict, Unavailable."""
        access_key = access_key or "HR" + rng.token_hex(9).upper()
        secret_key = secret_key or rng.token_hex(20)
        _check_new(name, access_key, secret_key, policy)
        try:
            if self._count() >= KEYS_MAX:
                raise Conflict(f"There are {KEYS_MAX} keys already; revoke some first.", kind="TooManyKeys")
            cursor = self._database.execute(
                "INSERT INTO access_keys (access_key, secret_key, name, policy, created_ms) VALUES (?, ?, ?, ?, ?)",
                (access_key, secret_key, name or access_key, _encode(policy), int(clock.wall() * 1000)),
            )
        except sqlite3.IntegrityError as problem:
            raise Conflict(
                f"Access key {access_key} exists already, or did; choose another.", kind="KeyAlreadyExists"
            ) from problem
        except sqlite3.Error as problem:
            raise Unavailable(f"Cannot store the access key in {self.path}: {problem}.") from problem
        self._stamp()
        number = cursor.lastrowid or 0
        return AccessKey(number, access_key, secret_key, name or access_key, tuple(policy), int(clock.wall() * 1000))

    def ensure(self, access_key: str, secret_key: str, name: str = "admin") -> AccessKey:
        """Make sure the admin key exists with this secret, replacing what it had. Raises as `create`."""
        _check_new(name, access_key, secret_key, ADMIN_POLICY)
        found = next((key for key in self.list() if key.access_key == access_key), None)
        if found is not None and found.secret_key == secret_key and found.admin:
            return found
        self.forget(access_key)
        return self.create(found.name if found else name, ADMIN_POLICY, access_key=access_key, secret_key=secret_key)

    def list(self) -> list[AccessKey]:
        """All keys that are not revoked, oldest first."""
        rows = self._database.execute(
            "SELECT number, access_key, secret_key, name, policy, created_ms FROM access_keys"
            " WHERE revoked_ms IS NULL ORDER BY number LIMIT ?",
            (KEYS_MAX,),
        )
        return [
            AccessKey(number, access_key, secret_key, name, _decode(policy), created_ms)
            for number, access_key, secret_key, name, policy, created_ms in rows
        ]

    def revoke(self, access_key: str) -> None:
        """Take the key out of use at once and forget its secret. Raises NotFound."""
        cursor = self._database.execute(
            "UPDATE access_keys SET revoked_ms = ?, secret_key = '' WHERE access_key = ? AND revoked_ms IS NULL",
            (int(clock.wall() * 1000), access_key),
        )
        if cursor.rowcount == 0:
            raise NotFound(
                f"There is no access key {access_key}; `headrace key list` shows all.", kind="InvalidAccessKeyId"
            )
        self._stamp()

    def forget(self, access_key: str) -> None:
        """Remove every trace of the key, so that its name may be used again. Raises Unavailable."""
        try:
            self._database.execute("DELETE FROM access_keys WHERE access_key = ?", (access_key,))
        except sqlite3.Error as problem:
            raise Unavailable(f"Cannot remove the access key from {self.path}: {problem}.") from problem
        self._stamp()

    def _count(self) -> int:
        """How many keys are in use."""
        count: int = self._database.execute("SELECT count(*) FROM access_keys WHERE revoked_ms IS NULL").fetchone()[0]
        return count

    def _stamp(self) -> None:
        """Tell every process that keys changed, after the change is durable."""
        if self._words is not None:
            self._words.stamp(KEYS)


def _check_new(name: str, access_key: str, secret_key: str, policy: Sequence[Rule]) -> None:
    """Refuse a key that clients could not send or people could not read. Raises Invalid."""
    if not _ACCESS_KEY.fullmatch(access_key):
        raise Invalid(
            f"Bad access key {access_key!r}; use 3 to 128 letters, digits and the signs _ . + -.",
            kind="InvalidArgument",
        )
    if not _SECRET_KEY.fullmatch(secret_key):
        raise Invalid("Bad secret key; use 8 to 128 printable ASCII characters without spaces.", kind="InvalidArgument")
    if len(name) > 128 or not name.isprintable():
        raise Invalid("Bad name; use at most 128 printable characters.", kind="InvalidArgument")
    if not 1 <= len(policy) <= KEY_RULES_MAX:
        raise Invalid(f"A key needs 1 to {KEY_RULES_MAX} rules; got {len(policy)}.", kind="InvalidArgument")


def _encode(policy: Sequence[Rule]) -> str:
    """A policy as stored."""
    return msgspec.json.encode([[rule.pattern, list(rule.actions)] for rule in policy]).decode()


def _decode(text: str) -> tuple[Rule, ...]:
    """A policy from storage; actions that this version does not know grant nothing."""
    stored = msgspec.json.decode(text, type=list[tuple[str, list[str]]])
    return tuple(Rule(pattern, tuple(action for action in actions if action in ACTIONS)) for pattern, actions in stored)
