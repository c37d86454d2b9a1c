"""Builds what a worker and an agent consist of. Nothing else makes objects from settings."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

from headrace.base.clock import SYSTEM
from headrace.base.errors import Invalid
from headrace.base.limits import TIER_BYTES_MIN, TIER_DEFAULT_BYTES_MAX
from headrace.cache.client import AgentClient
from headrace.cache.hits import IndexHandle
from headrace.cache.reader import Reader
from headrace.cache.runner import Agent, AgentSettings, TierSettings
from headrace.config.load import Tier, tiers
from headrace.config.settings import Settings
from headrace.gateway.context import Context
from headrace.gateway.files import OpenFiles
from headrace.gateway.keyring import Keyring
from headrace.gateway.spool import Spool
from headrace.media.tiers import SegmentPaths
from headrace.origin.factory import Origins
from headrace.serve.bindings import NodeBindings
from headrace.serve.layout import Layout
from headrace.serve.preparation import SPOOL, account_urls, open_table
from headrace.telemetry import log
from headrace.telemetry.metrics import Metrics
from headrace.telemetry.records import Ring
from headrace.wire.words import Words

_log = log.get_logger("headrace.serve")


def cache_tiers(settings: Settings, layout: Layout) -> list[Tier]:
    """The tiers to use: the configured ones, else one in the data directory if its disk has room."""
    configured = tiers(settings)
    if configured:
        return configured
    free = shutil.disk_usage(layout.data).free
    own = layout.tiers / "0"
    used = sum(path.stat().st_blocks * 512 for path in own.glob("segments/*")) if own.exists() else 0
    size = min(TIER_DEFAULT_BYTES_MAX, (free + used) // 2)
    if size < TIER_BYTES_MIN:
        _log.warning("no cache", reason="too little free space for a tier", directory=str(layout.data), free_bytes=free)
        return []
    return [Tier(own, size)]


def open_spool(found: list[Tier]) -> Spool | None:
    """Where workers keep bodies on their way to a remote origin: on the first tier's disk; None without one."""
    for tier in found:
        folder = tier.path / SPOOL
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as problem:
            _log.warning("no spool on tier", directory=str(tier.path), reason=str(problem))
            continue
        spool = Spool(folder)
        spool.clear_dead()
        return spool
    return None


def build_agent(settings: Settings, layout: Layout, words: Words, bindings: NodeBindings) -> Agent:
    """The node's agent, not started."""
    return Agent(
        AgentSettings(
            socket_path=layout.agent_socket,
            index_path=layout.index,
            tiers=tuple(
                TierSettings(path=tier.path, limit_bytes=tier.size_bytes) for tier in cache_tiers(settings, layout)
            ),
        ),
        bindings.origin_of_id,
        words,
    )


def build_bindings(settings: Settings, layout: Layout, words: Words, origins: Origins) -> NodeBindings:
    """The bindings of one process."""
    return NodeBindings(open_table(settings, layout, words), origins, account_urls(settings))


class WorkerParts:
    """What one worker consists of; `context` is what requests see."""

    def __init__(self, settings: Settings, layout: Layout, name: str) -> None:
        self.settings = settings
        self.words = Words(layout.words)
        self.metrics = Metrics(layout.metrics, name)
        self.keyring = Keyring(layout.database, self.words)
        self.origins = Origins(self.words)
        self.bindings = build_bindings(settings, layout, self.words, self.origins)
        self.client = AgentClient(layout.agent_socket, self.words)
        found = cache_tiers(settings, layout)
        self.reader = Reader(
            IndexHandle(layout.index, SYSTEM),
            self.client,
            self.words,
            self.bindings.origin_of,
            SegmentPaths(tier.path for tier in found),
        )
        self.ring = Ring()
        self.context = Context(
            store=self.origins.store(str(layout.store)),
            keyring=self.keyring,
            words=self.words,
            files=OpenFiles(),
            ring=self.ring,
            bindings=self.bindings,
            reader=self.reader,
            spool=open_spool(found),
            domains=settings.domain,
            region=settings.region,
            metrics=self.metrics,
            open_metrics=settings.open_metrics,
        )

    async def start(self) -> None:
        """Connect to the agent, or go on trying."""
        await self.client.start()

    async def stop(self) -> None:
        """Release everything, writes under way first."""
        await self.context.handovers.drain()
        await self.client.stop()
        self.reader.close()
        await self.bindings.close()
        self.bindings.table.close()
        self.origins.close()
        self.keyring.close()
        self.context.files.close()


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The server's TLS context; None for plain HTTP. Raises Invalid."""
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(Path(settings.tls_cert).expanduser(), Path(settings.tls_key).expanduser())
    except (OSError, ssl.SSLError) as problem:
        raise Invalid(
            f"The certificate {settings.tls_cert} and key {settings.tls_key} cannot be used: {problem}. "
            "Both must be PEM files that belong together."
        ) from problem
    return context
