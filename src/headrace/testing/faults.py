"""A proxy in front of an origin that delays, limits, cuts, corrupts and refuses, to order.

    python -m headrace.testing.faults --listen 127.0.0.1:0 --origin http://127.0.0.1:8333 --delay-ms 10 --rate-mb 100

What no fault asks about is relayed byte by byte: a request is held for the delay when its head comes
in, and its answer passes as it is, so that one process relays well over 500 MB/s. The Host header is
not touched, hence signatures stay valid.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections import deque
from typing import Self
from urllib.parse import urlsplit

from headrace.base import rng
from headrace.testing.faults_relay import Fault, Front, Seen, Shaper

_SEEN_MAX = 10_000


class FaultProxy:
    """The proxy; program it while it runs. `delay_seconds` holds every request, `rate_bytes` bounds each direction."""

    def __init__(
        self, origin: str, *, delay_seconds: float = 0.0, rate_bytes: float | None = None, seed: int | str = 0
    ) -> None:
        parts = urlsplit(origin)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise ValueError(f"{origin} is no http://host:port")
        self.upstream = (parts.hostname, parts.port)
        self.delay_seconds = delay_seconds
        self.faults: list[Fault] = []
        self.seen: deque[Seen] = deque(maxlen=_SEEN_MAX)
        self.down = Shaper(rate_bytes)
        self.up = Shaper(rate_bytes)
        self._chance = rng.seeded(seed)
        self._server: asyncio.Server | None = None
        self.fronts: set[Front] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; returns the URL to use in the origin's place."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Front(self), host, port)
        name = self._server.sockets[0].getsockname()
        return f"http://{name[0]}:{name[1]}"

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for front in list(self.fronts):
            front.abort()
        await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        self.url = await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def set_rate(self, rate_bytes: float | None) -> None:
        """Bound each direction to so many bytes a second; None lifts the bound."""
        self.down.rate_bytes = self.up.rate_bytes = rate_bytes

    def add(self, kind: str, pattern: str = "", **more: float | None) -> Fault:
        """Order a fault (see `Fault`); it strikes from now on."""
        fault = Fault(kind, pattern, **more)  # type: ignore[arg-type] # numbers all of them
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """Take back every fault; delay and rate stay."""
        self.faults.clear()

    def count(self, pattern: str = "") -> int:
        """How many requests whose `METHOD target` matches came through since the start (the last 10,000)."""
        return sum(1 for seen in self.seen if re.search(pattern, f"{seen.method} {seen.target}"))

    def strike(self, method: str, target: str) -> Fault | None:
        """The fault for a request that comes in now, used up by it; None for most."""
        found = None
        for fault in self.faults:
            if fault.times == 0 or not re.search(fault.pattern, f"{method} {target}"):
                continue
            if fault.chance < 1.0 and self._chance.random() >= fault.chance:
                continue
            if fault.times is not None:
                fault.times -= 1
            found = fault
            break
        self.seen.append(Seen(method, target, found.kind if found else ""))
        return found


async def _serve(listen: str, proxy: FaultProxy) -> None:
    """Run until interrupted; the URL is the only line on the standard output."""
    host, _, port = listen.rpartition(":")
    url = await proxy.start(host or "127.0.0.1", int(port))
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m headrace.testing.faults", description=__doc__.split("\n\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT, port 0 for a free one")
    parser.add_argument("--origin", required=True, help="http://HOST:PORT of the origin")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="how long each request is held")
    parser.add_argument("--rate-mb", type=float, default=0.0, help="MB (10^6 bytes) a second in each direction; 0: any")
    parser.add_argument("--seed", default="0", help="of the faults that strike by chance")
    given = parser.parse_args(arguments)
    proxy = FaultProxy(
        given.origin, delay_seconds=given.delay_ms / 1000, rate_bytes=given.rate_mb * 1e6 or None, seed=given.seed
    )
    try:
        import uvloop

        uvloop.run(_serve(given.listen, proxy))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
