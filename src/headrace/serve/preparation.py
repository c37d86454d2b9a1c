"""What is made ready before any child runs: first key, bindings from flags, an empty spool.

Light to import: the supervisor stays small, and `headrace bucket` and `doctor` answer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from headrace.config.load import Tier, tiers
from headrace.config.settings import Settings
from headrace.gateway.bindings import ACCOUNT, BindingTable, parse_freshness
from headrace.gateway.keyring import ADMIN_POLICY, AccessKey, Keyring
from headrace.model.bindings import Binding
from headrace.origin.urls import named, parse
from headrace.serve.layout import Layout
from headrace.wire.words import Words

SPOOL = "spool"
"""Folder of a tier in which workers keep bodies on their way to a remote origin."""


def account_urls(settings: Settings) -> list[str]:
    """The accounts (`s3://`) whose buckets all appear."""
    return [url for name, url in map(named, settings.origin) if not name]


def flag_bindings(settings: Settings) -> list[tuple[str, str]]:
    """The (bucket, URL) pairs of `--origin NAME=URL`."""
    return [(name, url) for name, url in map(named, settings.origin) if name]


def open_table(settings: Settings, layout: Layout, words: Words | None) -> BindingTable:
    """The node's table of bindings, with the settings' freshness rules."""
    return BindingTable(layout.database, words, [parse_freshness(item) for item in settings.freshness])


def known_bindings(settings: Settings, layout: Layout) -> list[Binding]:
    """What a node on this directory would serve, accounts as themselves; for `headrace doctor`."""
    wanted = [Binding(0, name, url) for name, url in map(named, settings.origin)]
    if layout.database.exists():
        table = open_table(settings, layout, None)
        try:
            flags = {binding.bucket for binding in wanted}
            stored = [binding for binding in table.list() if table.source(binding.bucket) != ACCOUNT]
            wanted += [binding for binding in stored if binding.bucket not in flags]
        finally:
            table.close()
    return wanted


def prepare_binding(bucket: str, url: str) -> None:
    """Make what a new binding needs to exist: a bucket in an embedded store. Raises Invalid, Unavailable."""
    parsed = parse(url)
    if parsed.scheme != "store":
        return
    from headrace.origin.store import Store

    store = Store.open(Path(parsed.path))
    try:
        if store.bucket_now(bucket) is None:
            asyncio.run(store.create_bucket(bucket, ""))
    finally:
        store.close()


def make_first_key(layout: Layout, settings: Settings, words: Words) -> AccessKey | None:
    """Make sure that somebody can sign in; the key when it was made up now and must be shown."""
    keyring = Keyring(layout.database, words)
    try:
        if settings.access_key:
            keyring.ensure(settings.access_key, settings.secret_key)
            return None
        if keyring.list():
            return None
        return keyring.create("admin", ADMIN_POLICY)
    finally:
        keyring.close()


def bind_flags(layout: Layout, settings: Settings, words: Words) -> None:
    """Make the table's bindings from flags what the settings say. Raises Invalid, Conflict, Unavailable."""
    table = open_table(settings, layout, words)
    try:
        for bucket, url in flag_bindings(settings):
            prepare_binding(bucket, url)
        table.set_flags(flag_bindings(settings))
        if not account_urls(settings):
            table.set_account([])
    finally:
        table.close()


def forget_key(layout: Layout, key: AccessKey) -> None:
    """Remove a key as if it had never been."""
    keyring = Keyring(layout.database)
    try:
        keyring.forget(key.access_key)
    finally:
        keyring.close()


def clear_spools(settings: Settings, layout: Layout) -> None:
    """Remove what killed workers left half-way to an origin: it was never acknowledged. Before any worker runs."""
    for tier in tiers(settings) or [Tier(layout.tiers / "0", 0)]:
        for path in (tier.path / SPOOL).glob("*.put"):
            with contextlib.suppress(OSError):  # a broken disk must not keep the node from starting
                path.unlink()
