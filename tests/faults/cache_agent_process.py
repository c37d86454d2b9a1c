"""An agent as a process of its own, with an origin whose bytes follow from the key: `python FILE FOLDER`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvloop

from headrace.base import limits
from headrace.base.rng import seeded
from headrace.cache.runner import Agent, AgentSettings, TierSettings
from headrace.model.objects import NO_CONDITIONS, Conditions, ObjectInfo, Version
from headrace.origin.base import Opened, Origin, Page, Upload
from headrace.origin.conditions import check_read, resolve_range
from headrace.wire.words import Words

MAP_BYTES = 64 * limits.MIB


def content(key: str) -> bytes:
    """The bytes of an object named "SIZE-SEED"."""
    size, seed = key.split("-")
    return seeded(int(seed)).randbytes(int(size))


class DerivedOrigin(Origin):
    """Every object exists. Each read is noted in the file `log`."""

    url = "derived://"

    def __init__(self, log: Path) -> None:
        self._log = log

    def _info(self, key: str) -> ObjectInfo:
        return ObjectInfo(key=key, version=Version(f"etag-{key}", 1_700_000_000_000, int(key.partition("-")[0])))

    async def head(self, key: str) -> ObjectInfo:
        return self._info(key)

    async def open(
        self, key: str, start: int = 0, stop: int | None = None, conditions: Conditions = NO_CONDITIONS
    ) -> Opened:
        info = self._info(key)
        check_read(info, conditions)
        first, last = resolve_range(info.size, start, stop)
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{key} {first} {last}\n".encode())
        os.close(descriptor)
        return Opened(info, first, last - first, self._body(content(key)[first:last]))

    async def _body(self, data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), 128 * limits.KIB):
            yield data[at : at + 128 * limits.KIB]
            await asyncio.sleep(0.001)

    async def put(self, key: str, upload: Upload, conditions: Conditions = NO_CONDITIONS) -> ObjectInfo:
        raise AssertionError("not written to")

    async def delete(self, key: str, conditions: Conditions = NO_CONDITIONS) -> None:
        raise AssertionError("not deleted from")

    async def list(self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        return Page((), (), None)


def settings_in(folder: Path) -> AgentSettings:
    """The same settings for the process and for those who look at it."""
    return AgentSettings(
        socket_path=folder / "agent.sock",
        index_path=folder / "index",
        tiers=(TierSettings(path=folder / "tier", limit_bytes=64 * limits.MIB, segment_bytes=8 * limits.MIB),),
        index_map_bytes=MAP_BYTES,
    )


async def run(folder: Path) -> None:
    """Serve until SIGTERM."""
    words = Words(folder / "words")
    origin = DerivedOrigin(folder / "log")
    agent = Agent(settings_in(folder), lambda _: origin, words)
    await agent.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await agent.stop()


if __name__ == "__main__":
    uvloop.run(run(Path(sys.argv[1])))
