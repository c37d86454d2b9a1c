"""Which bucket is bound to which origin, in `DIR/node.db`, with an in-memory copy per process.

A binding's id is what cached blocks are filed under: it belongs to one (bucket, URL) pair for ever, so
a bucket that is bound to the same URL again finds its cache, and one bound elsewhere never sees it.
Bindings come from the command line of `headrace up` (gone when the flag is), from `headrace bucket
add` (kept) or from an account's own list of buckets (renewed by the agent).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from headrace.base.errors import Conflict, Invalid, NotFound, Unavailable
from headrace.base.files import private_file
from headrace.base.limits import BINDINGS_MAX, DATABASE_BUSY_SECONDS_MAX
from headrace.cache.freshness import parse as parse_rule
from headrace.model.bindings import Binding
from headrace.origin.urls import parse as parse_url
from headrace.wire.words import BINDINGS, Words

FLAG, ADDED, ACCOUNT = "flag", "added", "account"
"""Where a binding came from."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS bindings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    bucket TEXT NOT NULL,
    url TEXT NOT NULL,
    rules TEXT NOT NULL DEFAULT '[]',
    source TEXT NOT NULL,
    active INTEGER NOT NULL,
    UNIQUE (bucket, url)
);
CREATE UNIQUE INDEX IF NOT EXISTS one_active_binding ON bindings (bucket) WHERE active = 1;
"""

Rules = tuple[tuple[str, str], ...]


class BindingTable:
    """The bindings of one data directory. One per process; not to be shared between threads.

    `rules` are (bucket or "*", key prefix, freshness rule) from the settings; they come after a
    binding's own, which win for the same prefix. `words` None: every look-up reads the database.
    """

    def __init__(self, path: Path, words: Words | None = None, rules: Sequence[tuple[str, str, str]] = ()) -> None:
        self.path = path
        self._words = words
        self._rules = tuple(rules)
        self._seen: int | None = None
        self._by_bucket: dict[str, Binding] = {}
        self._by_id: dict[int, Binding] = {}
        private_file(path)
        self._database = sqlite3.connect(path, timeout=DATABASE_BUSY_SECONDS_MAX, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @property
    def generation(self) -> int:
        """Changes whenever a binding may have; one memory read."""
        return self._words.view[BINDINGS] if self._words is not None else 0

    # -- per request

    def find(self, bucket: str) -> Binding | None:
        """The bucket's binding; None when it has none. Raises Unavailable."""
        self._refresh()
        return self._by_bucket.get(bucket)

    def by_id(self, number: int) -> Binding:
        """The active binding with this id. Raises NotFound (NoSuchBucket), Unavailable."""
        self._refresh()
        binding = self._by_id.get(number)
        if binding is None:
            raise NotFound(f"There is no binding {number} any more.", kind="NoSuchBucket")
        return binding

    def list(self) -> list[Binding]:
        """All active bindings in order of bucket name. Raises Unavailable."""
        self._refresh()
        return [self._by_bucket[bucket] for bucket in sorted(self._by_bucket)]

    def _refresh(self) -> None:
        """Read again when the word changed since; the word is noted *before* reading."""
        word = self._words.view[BINDINGS] if self._words is not None else None
        if word is not None and word == self._seen:
            return
        try:
            rows = self._database.execute(
                "SELECT id, bucket, url, rules FROM bindings WHERE active = 1 LIMIT ?", (BINDINGS_MAX,)
            ).fetchall()
        except sqlite3.Error as problem:
            raise Unavailable(f"Cannot read the bindings in {self.path}: {problem}.") from problem
        bindings = [Binding(number, bucket, url, self._merged(bucket, rules)) for number, bucket, url, rules in rows]
        self._by_bucket = {binding.bucket: binding for binding in bindings}
        self._by_id = {binding.id: binding for binding in bindings}
        self._seen = word

    def _merged(self, bucket: str, stored: str) -> Rules:
        """A binding's own rules, then those of the settings for prefixes it says nothing about."""
        merged = dict(_decode(stored))
        for named in (bucket, "*"):
            for pattern, prefix, rule in self._rules:
                if pattern == named:
                    merged.setdefault(prefix, rule)
        return tuple(merged.items())

    # -- administration

    def source(self, bucket: str) -> str:
        """Where the bucket's binding came from: FLAG, ADDED or ACCOUNT. Raises NotFound."""
        row = self._database.execute(
            "SELECT source FROM bindings WHERE bucket = ? AND active = 1", (bucket,)
        ).fetchone()
        if row is None:
            raise _no_binding(bucket)
        return str(row[0])

    def add(self, bucket: str, url: str, rules: Rules = (), *, source: str = ADDED) -> Binding:
        """Bind a bucket; durable on return. Raises Invalid, Conflict (bound elsewhere), Unavailable."""
        check(bucket, url, rules)
        self._change([(bucket, url, rules)], source, replace=False)
        binding = self.find(bucket)
        assert binding is not None
        return binding

    def remove(self, bucket: str) -> None:
        """Unbind a bucket. Nothing is deleted at the origin. Raises NotFound, Unavailable."""
        with _translated(self.path):
            cursor = self._database.execute("UPDATE bindings SET active = 0 WHERE bucket = ? AND active = 1", (bucket,))
        if cursor.rowcount == 0:
            raise _no_binding(bucket)
        self._stamp()

    def set_flags(self, wanted: Sequence[tuple[str, str]]) -> None:
        """Make the bindings of the command line exactly `wanted` (bucket, URL). Raises as `add`."""
        for bucket, url in wanted:
            check(bucket, url, ())
        self._retire(FLAG, dict(wanted))
        self._change([(bucket, url, ()) for bucket, url in wanted], FLAG, replace=True)

    def set_account(self, wanted: Sequence[tuple[str, str]]) -> bool:
        """Make the bindings of the account exactly `wanted`, other bindings going first; True if any changed."""
        before = self.list()
        taken = {binding.bucket for binding in before if self.source(binding.bucket) != ACCOUNT}
        mine = [(bucket, url, ()) for bucket, url in wanted if bucket not in taken]
        present = {(binding.bucket, binding.url) for binding in before if binding.bucket not in taken}
        if present == {(bucket, url) for bucket, url, _ in mine}:
            return False
        self._retire(ACCOUNT, {bucket: url for bucket, url, _ in mine})
        self._change(mine, ACCOUNT, replace=True)
        return True

    def _retire(self, source: str, kept: dict[str, str]) -> None:
        """Unbind what came from `source` and is not in `kept` any more."""
        with _translated(self.path):
            rows = self._database.execute(
                "SELECT bucket, url FROM bindings WHERE source = ? AND active = 1", (source,)
            ).fetchall()
            gone = [(bucket,) for bucket, url in rows if kept.get(bucket) != url]
            self._database.executemany("UPDATE bindings SET active = 0 WHERE bucket = ? AND active = 1", gone)
        if gone:
            self._stamp()

    def _change(self, wanted: Iterable[tuple[str, str, Rules]], source: str, *, replace: bool) -> None:
        """Activate the given bindings in one transaction."""
        with _translated(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                for bucket, url, rules in wanted:
                    self._activate(bucket, url, rules, source, replace=replace)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        self._stamp()

    def _activate(self, bucket: str, url: str, rules: Rules, source: str, *, replace: bool) -> None:
        row = self._database.execute("SELECT url FROM bindings WHERE bucket = ? AND active = 1", (bucket,)).fetchone()
        if row is not None and row[0] != url:
            if not replace:
                raise Conflict(
                    f"Bucket {bucket} is bound to {row[0]}; remove that first (`headrace bucket remove {bucket}`).",
                    kind="BucketAlreadyExists",
                )
            self._database.execute("UPDATE bindings SET active = 0 WHERE bucket = ? AND active = 1", (bucket,))
        count = self._database.execute("SELECT count(*) FROM bindings WHERE active = 1").fetchone()[0]
        if row is None and count >= BINDINGS_MAX:
            raise Conflict(f"There are {BINDINGS_MAX} bindings already; remove some first.", kind="TooManyBuckets")
        self._database.execute(
            "INSERT INTO bindings (bucket, url, rules, source, active) VALUES (?, ?, ?, ?, 1)"
            " ON CONFLICT (bucket, url) DO UPDATE SET active = 1,"
            " rules = CASE WHEN excluded.source = 'added' THEN excluded.rules ELSE rules END,"
            " source = CASE WHEN active = 1 AND source = 'added' THEN source ELSE excluded.source END",
            (bucket, url, msgspec.json.encode(rules).decode(), source),
        )

    def _stamp(self) -> None:
        """Tell every process, after the change is durable."""
        if self._words is not None:
            self._words.stamp(BINDINGS)


class _translated:  # noqa: N801 - reads as a statement
    """Turns SQLite's errors into Unavailable."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        if isinstance(problem, sqlite3.Error):
            raise Unavailable(f"Cannot change the bindings in {self._path}: {problem}.") from problem


def check(bucket: str, url: str, rules: Rules) -> None:
    """Refuse a binding that could never work. Raises Invalid."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise Invalid(
            f"Bad bucket name {bucket!r}; use 3 to 63 lower-case letters, digits, dots and hyphens.",
            kind="InvalidBucketName",
        )
    if parse_url(url).account:
        raise Invalid(f"{url} names no bucket; write s3://BUCKET, or start the node with --origin s3:// for all.")
    for prefix, rule in rules:
        if len(prefix.encode()) > 1024:
            raise Invalid(f"The prefix {prefix[:40]!r}... is longer than any key.")
        parse_rule(rule)


def parse_freshness(text: str) -> tuple[str, str, str]:
    """`BUCKET/PREFIX=RULE` as (bucket, prefix, rule). Raises Invalid."""
    name, equals, rule = text.rpartition("=")
    bucket, _, prefix = name.partition("/")
    if not equals or not bucket:
        raise Invalid(f"Bad freshness {text!r}; write BUCKET/PREFIX=RULE such as photos/=immutable or *=lease(30s).")
    parse_rule(rule)
    return bucket, prefix, rule


def _decode(text: str) -> Rules:
    return msgspec.json.decode(text, type=Rules)


def _no_binding(bucket: str) -> NotFound:
    return NotFound(
        f"Bucket {bucket} is not bound to an origin; `headrace bucket list` shows all.", kind="NoSuchBucket"
    )
