"""The origins that keep their bytes on this machine hold the promise of every origin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from headrace.origin.base import Origin
from headrace.origin.folder import Folder
from headrace.origin.store import Store
from headrace.testing.origins import OriginTests


class TestStore(OriginTests):
    """store:///dir"""

    @pytest_asyncio.fixture
    async def origin(self, tmp_path: Path) -> AsyncIterator[Origin]:
        """A bucket of a fresh store."""
        store = Store.open(tmp_path / "store")
        await store.create_bucket("bucket")
        yield store.bucket("bucket")
        store.close()

    unusual_keys = (
        *OriginTests.unusual_keys,
        "/",
        "//",
        "/lead",
        "trail/",
        "a//b",
        "../up",
        "./here",
        "nul\0byte",
        "n" * 1024,
        "line\nbreak",
    )


class TestFolder(OriginTests):
    """file:///dir"""

    unusual_keys = (*OriginTests.unusual_keys, "line\nbreak", "n" * 255, ".hidden", "..almost", "back\\slash", "*?[x]")

    @pytest_asyncio.fixture
    async def origin(self, tmp_path: Path) -> AsyncIterator[Origin]:
        """A fresh folder."""
        folder = Folder(tmp_path)
        yield folder
        await folder.close()
