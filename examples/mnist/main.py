"""Train a small model on 5,000 images read through headrace, cold and warm, and show where the time went.

    far node (embedded store) <-- slow line, 5 ms --> near node (cache) <-- S3 --> 4 reader ranks

The near node shows the far node's bucket as its own and keeps what it read. The first epoch comes from
the far origin; then from the page cache; then, the page cache dropped, from the near node's device; then
warm again. Ends with the accuracy on 1,000 images nobody trained on, which must be at least 90 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, NamedTuple

import digits
import model
import obstore
import rank
from nodes import Node, Program
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

RANKS = 4
LINE_SECONDS = 0.005
ACCURACY_LEAST = 0.9
FOLD_SECONDS = 1.5
EPOCH_SECONDS_MAX = 180.0
BUCKET = "digits"
WIDTH = 100
"""Columns of the table where no terminal says how many there are."""
ORIGIN, WARM, DEVICE = "origin, cold", "warm", "device, cold"
EPOCHS = (ORIGIN, WARM, WARM, DEVICE, WARM, WARM, WARM, WARM)


class Row(NamedTuple):
    """One epoch, as the table shows it."""

    kind: str
    seconds: float
    waiting: float
    siblings: float
    images: int
    bytes: int
    loss: float
    sources: dict[str, float]


class Gang:
    """The reader ranks: processes that take orders through pipes and average gradients in shared memory."""

    def __init__(self, place: rank.Place, stack: ExitStack) -> None:
        context = multiprocessing.get_context("spawn")
        memory = SharedMemory(create=True, size=RANKS * model.SIZE * 4)
        stack.callback(memory.unlink)
        stack.callback(memory.close)
        self.progress = context.Array("i", RANKS, lock=False)
        self.barrier = context.Barrier(RANKS)  # kept: it vanishes with the last reference here
        self.pipes, self.processes = [], []
        stack.callback(self.stop)
        for number in range(RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=rank.work,
                args=(number, RANKS, place, memory.name, self.barrier, self.progress, theirs),
                daemon=True,
            )
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def order(self, *order: Any, watch: Callable[[Any], None] = lambda _: None) -> list[Any]:
        """Send every rank the order and wait for all answers; `watch` sees the progress meanwhile."""
        for pipe in self.pipes:
            pipe.send(order)
        deadline = time.monotonic() + EPOCH_SECONDS_MAX
        waiting = list(self.pipes)
        answers: dict[int, Any] = {}
        while waiting:
            if time.monotonic() > deadline or not all(process.is_alive() for process in self.processes):
                raise RuntimeError(f"a rank died or took more than {EPOCH_SECONDS_MAX:.0f} seconds")
            for pipe in wait(waiting, 0.1):
                answers[self.pipes.index(pipe)] = pipe.recv()
                waiting.remove(pipe)
            watch(self.progress)
        problems = [answer for answer in answers.values() if isinstance(answer, Exception)]
        if problems:
            raise problems[0]
        return [answers[number] for number in range(RANKS)]

    def stop(self) -> None:
        """Let the ranks end, or end them."""
        for pipe in self.pipes:
            try:
                pipe.send(("stop",))
            except OSError:
                continue
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.terminate()
                process.join(5)


def bars(console: Console) -> Progress:
    """Progress bars that leave nothing behind when the output is no terminal."""
    columns = (
        TextColumn("{task.description:>28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def store_digits(console: Console, place: rank.Place) -> list[str]:
    """Put every image into the bucket; returns the keys."""
    store = place.open()
    pictures = list(digits.images())
    with bars(console) as progress, ThreadPoolExecutor(16) as pool:
        task = progress.add_task("storing images", total=len(pictures), note="")
        for _ in pool.map(lambda picture: obstore.put(store, picture[0], picture[1]), pictures):
            progress.advance(task)
    return [key for key, _ in pictures]


def train(console: Console, gang: Gang, near: Node, keys: list[str]) -> Iterator[Row]:
    """Run the epochs one after another."""
    each = len(keys) // (RANKS * rank.BATCH) * rank.BATCH
    for number, kind in enumerate(EPOCHS):
        if kind == DEVICE:
            near.forget_memory()
        before = near.bytes_by_source()
        gang.progress[:] = [0] * RANKS
        with bars(console) as progress:
            tasks = [progress.add_task(f"epoch {number + 1}, rank {r}", total=each, note=kind) for r in range(RANKS)]

            def show(done: Any, progress: Progress = progress, tasks: list[Any] = tasks) -> None:
                for task, count in zip(tasks, done, strict=True):
                    progress.update(task, completed=count)

            answers = gang.order("epoch", keys, number, watch=show)
        time.sleep(FOLD_SECONDS)  # the node folds its read records once a second
        after = near.bytes_by_source()
        spent = sum(answer.seconds for answer in answers)
        yield Row(
            kind,
            max(answer.seconds for answer in answers),
            sum(answer.waiting_seconds for answer in answers) / spent,
            sum(answer.sibling_seconds for answer in answers) / spent,
            sum(answer.images for answer in answers),
            sum(answer.bytes for answer in answers),
            sum(answer.loss for answer in answers) / RANKS,
            {source: after[source] - before.get(source, 0) for source in after},
        )


def table(rows: list[Row]) -> Table:
    """All epochs side by side."""
    title = f"{RANKS} ranks, a near node, an origin {LINE_SECONDS * 1e3:.0f} ms away; memory: the page cache"
    shown = Table(title=title, box=box.SIMPLE_HEAD)
    headings = ("epoch", "read from", "s", "data\nwait", "sibling\nwait", "images\nper s", "MB\nper s")
    for heading in (*headings, "memory\nkB", "device\nkB", "origin\nkB", "loss"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for number, row in enumerate(rows, 1):
        sources = [f"{row.sources.get(source, 0) / 1e3:,.0f}" for source in ("memory", "device", "origin")]
        shown.add_row(
            *(str(number), row.kind, f"{row.seconds:.2f}", f"{row.waiting:.0%}", f"{row.siblings:.0%}"),
            *(f"{row.images / row.seconds:,.0f}", f"{row.bytes / row.seconds / 1e6:.2f}", *sources, f"{row.loss:.3f}"),
        )
    return shown


def run(console: Console, folder: Path, stack: ExitStack) -> int:
    """The whole demo; everything it starts is stopped by `stack`."""
    key = ("demo" + secrets.token_hex(8), secrets.token_urlsafe(30))
    far = Node("far", folder, key)
    stack.callback(far.stop)
    line = slow_line(folder, far)
    stack.callback(line.stop)
    origin = f"{BUCKET}=s3://{BUCKET}?endpoint={line.endpoint}&region=us-east-1&addressing=path"
    far_place = rank.Place(far.endpoint, BUCKET, *key)
    make_bucket(far_place)
    keys = store_digits(console, far_place)
    arguments = ("--origin", origin, "--freshness", f"{BUCKET}/=immutable")
    near = Node("near", folder, key, *arguments, AWS_ACCESS_KEY_ID=key[0], AWS_SECRET_ACCESS_KEY=key[1])
    stack.callback(near.stop)
    console.print(f"far node {far.endpoint}, slow line {line.endpoint}, near node {near.endpoint}")

    gang = Gang(rank.Place(near.endpoint, BUCKET, *key), stack)
    rows = []
    for row in train(console, gang, near, [key for key in keys if key.startswith("train/")]):
        rows.append(row)
        console.print(f"epoch {len(rows)} ({row.kind}): {row.seconds:.2f} s, {row.waiting:.0%} of it waiting for data")
    answers = gang.order("test", [key for key in keys if key.startswith("test/")])
    accuracy = sum(right for right, _ in answers) / sum(count for _, count in answers)
    console.print(table(rows))
    console.print(f"accuracy on {sum(count for _, count in answers):,} test images: {accuracy:.1%}")
    if accuracy < ACCURACY_LEAST:
        console.print(f"that is less than {ACCURACY_LEAST:.0%}: the bytes or the training are wrong")
        return 1
    return 0


def slow_line(folder: Path, far: Node) -> Program:
    """A proxy before the far node that answers LINE_SECONDS late, as a store in another room would."""
    delay = str(LINE_SECONDS * 1e3)
    command = [sys.executable, "-m", "headrace.testing.faults", "--origin", far.endpoint, "--delay-ms", delay]
    return Program("slow line", command, folder / "line.log")


def make_bucket(place: rank.Place) -> None:
    """Create the bucket on the far node."""
    import boto3

    boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        aws_access_key_id=place.access_key,
        aws_secret_access_key=place.secret_key,
        region_name="us-east-1",
    ).create_bucket(Bucket=place.bucket)


def main() -> int:
    """Parse the command line and run in a temporary folder."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the nodes keep their data while the demo runs")
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # in the ranks: four of them share the cores already
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    with tempfile.TemporaryDirectory(prefix="headrace-demo-", dir=options.folder) as folder, ExitStack() as stack:
        status = run(console, Path(folder), stack)
    console.print("everything is stopped")
    return status


if __name__ == "__main__":
    sys.exit(main())
