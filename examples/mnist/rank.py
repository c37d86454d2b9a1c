"""One reader rank: reads its share of each epoch through S3, computes gradients, averages them with its siblings.

Every rank holds the same parameters. In each step it reads a batch of its own, writes its gradient to
its row of a shared array, waits for the others, and applies the mean of all rows: data parallelism as
on a cluster, with shared memory in place of a network. The next batches are read ahead by threads;
what is called waiting is the time a step stood still because its batch was not there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import model
import numpy as np
import obstore
from digits import decode, label
from obstore.store import S3Store

BATCH = 32
READ_AHEAD_BATCHES = 3
READERS = 8
WAIT_SECONDS_MAX = 120.0


class Place(NamedTuple):
    """Where a bucket is and who asks."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str

    def open(self) -> S3Store:
        """An ordinary S3 client of it, unmodified."""
        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )


class Outcome(NamedTuple):
    """What one rank saw in one epoch."""

    seconds: float
    waiting_seconds: float
    sibling_seconds: float
    images: int
    bytes: int
    loss: float


class Rank:
    """The state that one process carries from epoch to epoch."""

    def __init__(self, number: int, count: int, place: Place, memory: str, barrier: Barrier, progress: Any) -> None:
        self.number, self.count = number, count
        self.store = place.open()
        self.barrier = barrier
        self.progress = progress
        self.shared = SharedMemory(memory)
        self.gradients = np.ndarray((count, model.SIZE), np.float32, self.shared.buf)
        self.parameters = model.start()
        self.adam = model.Adam()
        self.pool = ThreadPoolExecutor(READERS)

    def share(self, keys: list[str], seed: int) -> list[str]:
        """This rank's keys of the epoch: all ranks shuffle alike, then each takes every count-th."""
        order = np.random.default_rng(seed).permutation(len(keys) - len(keys) % (self.count * BATCH))
        return [keys[place] for place in order[self.number :: self.count]]

    def batches(self, keys: list[str]) -> Iterator[tuple[list[str], list[Future[bytes]]]]:
        """Batches in order, with READ_AHEAD_BATCHES of them asked for before they are needed."""
        groups = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
        asked = [[self.pool.submit(self.read, key) for key in group] for group in groups[:READ_AHEAD_BATCHES]]
        for number, group in enumerate(groups):
            following = number + READ_AHEAD_BATCHES
            if following < len(groups):
                asked.append([self.pool.submit(self.read, key) for key in groups[following]])
            yield group, asked.pop(0)

    def read(self, key: str) -> bytes:
        """One object, whole."""
        return bytes(obstore.get(self.store, key).bytes())

    def epoch(self, keys: list[str], seed: int) -> Outcome:
        """Train on this rank's share once."""
        start = time.perf_counter()
        waiting, siblings, moved, images, losses = 0.0, 0.0, 0, 0, []
        for group, asked in self.batches(self.share(keys, seed)):
            before = time.perf_counter()
            bodies = [future.result(WAIT_SECONDS_MAX) for future in asked]
            waiting += time.perf_counter() - before
            pixels = np.stack([decode(body) for body in bodies])
            labels = np.array([label(key) for key in group])
            loss, self.gradients[self.number] = model.loss_and_gradient(self.parameters, pixels, labels)
            siblings += self.meet()  # all gradients are there
            mean = self.gradients.mean(0)
            siblings += self.meet()  # all have read them
            self.adam.step(self.parameters, mean)
            losses.append(loss)
            moved += sum(map(len, bodies))
            images += len(bodies)
            self.progress[self.number] = images
        return Outcome(time.perf_counter() - start, waiting, siblings, images, moved, float(np.mean(losses)))

    def meet(self) -> float:
        """Wait until every rank is here; returns the seconds it took."""
        before = time.perf_counter()
        self.barrier.wait(WAIT_SECONDS_MAX)
        return time.perf_counter() - before

    def test(self, keys: list[str]) -> tuple[int, int]:
        """(right, all) over this rank's share of the test images."""
        mine = keys[self.number :: self.count]
        pixels = np.stack([decode(body) for body in self.pool.map(self.read, mine)])
        labels = np.array([label(key) for key in mine])
        return int((model.predict(self.parameters, pixels) == labels).sum()), len(mine)


def work(number: int, count: int, place: Place, memory: str, barrier: Barrier, progress: Any, orders: Any) -> None:
    """The body of a rank's process: carries out orders from its pipe until told to stop."""
    rank = Rank(number, count, place, memory, barrier, progress)
    try:
        while True:
            order, *details = orders.recv()
            if order == "stop":
                break
            try:
                orders.send(getattr(rank, order)(*details))
            except Exception as problem:  # the trainer must hear of it, or all wait for this rank
                barrier.abort()
                orders.send(problem)
    finally:
        rank.pool.shutdown(wait=False, cancel_futures=True)
        del rank.gradients
        rank.shared.close()
