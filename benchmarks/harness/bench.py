"""One run of the benchmarks: its options, the servers it keeps up, the requests it has signed, its results."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from harness import data, machine
from harness.load import LoadGenerator, Sample
from harness.servers import Server
from harness.signing import Wanted

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIGNATURE_SECONDS_MAX = 480.0


@dataclass
class Outcome:
    """What one case found: figures by name, and targets with what became of them."""

    title: str
    figures: dict[str, Any] = field(default_factory=dict)
    targets: list[dict[str, Any]] = field(default_factory=list)
    configuration: dict[str, Any] = field(default_factory=dict)

    def target(self, what: str, figure: float | None, *, least: float | None = None, most: float | None = None) -> None:
        """Hold a figure against its bound; a figure that could not be had is not met."""
        wanted = f">= {least:g}" if least is not None else f"<= {most:g}"
        met = figure is not None and (least is None or figure >= least) and (most is None or figure <= most)
        rounded = None if figure is None else float(f"{figure:.4g}")
        self.targets.append({"what": what, "wanted": wanted, "figure": rounded, "met": met})


class Bench:
    """Options and everything that cases share. Use as a context manager: leaving stops all servers."""

    def __init__(self, *, quick: bool, folder: Path | None, realtime: bool, rounds: int, seconds: float) -> None:
        self.quick = quick
        self.rounds = rounds
        self.seconds = seconds
        self.realtime = realtime and machine.realtime_allowed()
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-bench-", dir=folder))
        self.groups = data.QUICK if quick else data.WARM
        self.load = LoadGenerator(self.folder, realtime=self.realtime)
        self._servers: dict[str, Server] = {}
        self._plans: dict[tuple[Any, ...], tuple[float, Path, int]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def serve(self, name: str, make: Callable[[Path], Server], groups: tuple[data.Group, ...] | None = None) -> Server:
        """The server of that name: started and filled at the first call, stopped when the run ends."""
        if name not in self._servers:
            server = make(self.folder / name)
            server.start()
            self._stack.callback(server.stop)
            self._servers[name] = server
            server.fill(self.groups if groups is None else groups)
        return self._servers[name]

    def retire(self, name: str) -> None:
        """Stop that server now and give its disk space back."""
        server = self._servers.pop(name, None)
        if server is not None:
            server.stop()
            shutil.rmtree(server.folder, ignore_errors=True)

    def plan(self, *name: Any, build: Callable[[], Sequence[Wanted]]) -> tuple[Path, int]:
        """The request file of that name and its length, signed anew before its signatures expire."""
        made, path, count = self._plans.get(name, (-SIGNATURE_SECONDS_MAX, Path(), 0))
        if time.monotonic() - made > SIGNATURE_SECONDS_MAX:
            wanted = build()
            path.unlink(missing_ok=True) if count else None
            made, path, count = time.monotonic(), self.load.write(wanted), len(wanted)
            self._plans[name] = (made, path, count)
        return path, count

    def gets(self, server: Server, group: data.Group, bucket: str = data.BUCKET, *, secure: bool = False) -> Path:
        """The request file of whole signed GETs of that group."""
        return self.plan(
            server.port, group, bucket, build=lambda: data.whole_gets(server.port, group, bucket, secure=secure)
        )[0]

    def fire(self, server: Server, file: Path, **options: float | bool) -> Sample:
        """One run of the load generator against a server, of this bench's usual length."""
        options.setdefault("seconds", self.seconds)
        return self.load.run(server.port, file, server.process_ids(), **options)

    def verify(self, server: Server, group: data.Group, bucket: str = data.BUCKET, *, secure: bool = False) -> None:
        """Read every object of the group once and compare all its bytes; warms it too. Raises BadAnswers."""
        wanted = data.whole_gets(server.port, group, bucket, verified=True, secure=secure)
        file = self.load.write(wanted)
        self.fire(server, file, count=len(wanted), connections=2, seconds=300, verify=True, tls=secure)
        file.unlink()

    def save(self, name: str, outcome: Outcome) -> Path:
        """Keep the outcome with everything needed to judge it."""
        folder = RESULTS / "quick" if self.quick else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        record = {
            "case": name,
            "title": outcome.title,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine.describe(),
            "versions": machine.versions(),
            "configuration": {
                "rounds": self.rounds,
                "seconds_per_run": self.seconds,
                "client_core": machine.CLIENT_CORE,
                "server_core": machine.SERVER_CORE,
                "realtime": self.realtime,
                "quick": self.quick,
                "objects": {group.name: [group.count, group.connections] for group in self.groups},
                **outcome.configuration,
            },
            "figures": outcome.figures,
            "targets": outcome.targets,
        }
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return path
