"""Sweep what a crash left behind in the embedded store: bodies no object ever got.

A session whose lock can be taken belongs to a process that is gone. Whoever takes that lock sweeps
for it, so one process does, and never a body that a living one is about to commit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from headrace.base.errors import HeadraceError
from headrace.origin.bodies import SESSION_CHARS, Bodies
from headrace.origin.catalogue import Catalogue, Transaction
from headrace.origin.rows import unpack_pieces

_ROWS = 2000


def sweep(root: Path, bodies: Bodies, catalogue: Catalogue, stopping: threading.Event) -> None:
    """Sweep for every dead session; stops early when asked. Never raises: the next start tries again.

    Prepares the catalogue's log too, since this thread is the one at start that nobody waits for.
    """
    with contextlib.suppress(OSError, HeadraceError):
        catalogue.lengthen_log()
    with contextlib.suppress(OSError, sqlite3.Error, HeadraceError):
        for path in sorted((root / "sessions").iterdir()):
            if path.name == bodies.session or stopping.is_set():
                continue
            with contextlib.suppress(OSError, sqlite3.Error, HeadraceError):
                _sweep_session(root, path, bodies, catalogue, stopping)


def _sweep_session(root: Path, path: Path, bodies: Bodies, catalogue: Catalogue, stopping: threading.Event) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # alive, or another process sweeps for it
        session = path.name
        low = catalogue.write(lambda transaction: _low_water(transaction, session))
        orphans = _candidates(root / "bodies", session, low)
        if orphans:
            for name in _referenced(catalogue, session, stopping):
                orphans.discard(name)
        if stopping.is_set():
            return
        for name in orphans:
            bodies.remove(name)
        catalogue.write(lambda transaction: _forget(transaction, session))
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _low_water(transaction: Transaction, session: str) -> int:
    """Below which number all bodies of the session were settled.

    A write, so that a commit whose outcome the dead process never learnt is decided before we look.
    """
    row = transaction.db.execute("SELECT low_water FROM sessions WHERE session=?", (session,)).fetchone()
    return 0 if row is None else int(row[0])


def _candidates(folder: Path, session: str, low: int) -> set[str]:
    """Bodies of the session that may be orphans."""
    found: set[str] = set()
    for shard in os.scandir(folder):
        with os.scandir(shard.path) as entries:
            found.update(
                entry.name
                for entry in entries
                if entry.name.startswith(session) and int(entry.name[SESSION_CHARS:], 16) >= low
            )
    return found


def _referenced(catalogue: Catalogue, session: str, stopping: threading.Event) -> Iterator[str]:
    """Every body of the session that an object or a part names, read in one snapshot."""
    db = catalogue.reader()
    mark = session.encode()
    db.execute("BEGIN")
    try:
        for table in ("objects", "parts"):
            cursor = db.execute(f"SELECT extents FROM {table} WHERE extents NOT NULL")  # noqa: S608 - fixed names
            while rows := cursor.fetchmany(_ROWS):
                for (extents,) in rows:
                    if mark in extents:
                        yield from (piece.name for piece in unpack_pieces(extents))
                if stopping.wait(0.001):
                    return
    finally:
        db.execute("COMMIT")


def _forget(transaction: Transaction, session: str) -> None:
    transaction.db.execute("DELETE FROM sessions WHERE session=?", (session,))
