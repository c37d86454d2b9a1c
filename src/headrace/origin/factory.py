"""From a bucket binding to its origin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headrace.base.clock import SYSTEM, Clock
from headrace.model.bindings import Binding
from headrace.origin.base import Origin
from headrace.origin.urls import parse
from headrace.wire.words import Words

if TYPE_CHECKING:
    from headrace.origin.store import Store


class Origins:
    """Makes origins from bindings, and keeps what several of them share: one opening of each embedded store."""

    def __init__(self, words: Words | None = None, clock: Clock = SYSTEM) -> None:
        self._words = words
        self._clock = clock
        self._stores: dict[str, Store] = {}

    def make(self, binding: Binding) -> Origin:
        """The origin that `binding.url` names. Raises Invalid; no network is asked yet.

        Modules are imported where needed, since each brings its own libraries.
        """
        url = parse(binding.url)
        if url.scheme == "store":
            return self.store(url.path).bucket(binding.bucket)
        if url.scheme == "file":
            from headrace.origin.folder import Folder

            return Folder(Path(url.path), self._words, binding.bucket)
        if url.scheme == "s3":
            from headrace.origin.s3 import S3Origin

            return S3Origin(url, clock=self._clock)
        from headrace.origin.objectstore import ObstoreOrigin

        return ObstoreOrigin.at(url)

    def store(self, path: str) -> Store:
        """This process's opening of the embedded store in folder `path`."""
        if path not in self._stores:
            from headrace.origin.store import Store

            self._stores[path] = Store.open(Path(path), self._words)
        return self._stores[path]

    def close(self) -> None:
        """Close the stores. Blocks until their running writes end."""
        while self._stores:
            self._stores.popitem()[1].close()
