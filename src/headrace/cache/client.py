"""The worker's side of the unix socket: asks the agent, and notices quickly when it is gone."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import cast

from headrace.base import errors, limits
from headrace.base.clock import wall
from headrace.base.rng import fresh
from headrace.model.bindings import Binding
from headrace.model.objects import ObjectInfo, Version
from headrace.wire import agent as wire
from headrace.wire.words import Words, stripe

_log = logging.getLogger("headrace.cache")


class Question:
    """One question under way: the latest of each thing the agent said about it.

    `ended` is the last answer (Done, Failed, Bypass, InFlight), or None; `error` says instead that
    the agent went away.
    """

    __slots__ = ("_client", "_waiter", "ended", "error", "located", "number", "ready")

    def __init__(self, client: AgentClient, number: int) -> None:
        self._client = client
        self._waiter: asyncio.Future[None] | None = None
        self.number = number
        self.located: wire.Located | None = None
        self.ready = 0
        self.ended: wire.Done | wire.Failed | wire.Bypass | wire.InFlight | None = None
        self.error: errors.Unavailable | None = None

    @property
    def over(self) -> bool:
        """True when no more answers come."""
        return self.ended is not None or self.error is not None

    def take(self, answer: wire.Answer) -> None:
        """Note an answer and wake whoever waits."""
        if isinstance(answer, wire.Located):
            self.located = answer
            self.ready = max(self.ready, answer.ready)
            if answer.data is not None:
                self.ended = wire.Done(self.number)
        elif isinstance(answer, wire.Progress):
            self.ready = max(self.ready, answer.ready)
        else:
            self.ended = answer
            if isinstance(answer, wire.Done) and self.located is not None:
                self.ready = self.located.length
        self._wake()

    def fail(self, error: errors.Unavailable) -> None:
        """The agent went away."""
        self.error = error
        self._wake()

    async def changed(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until `holds()` or the question is over. Raises Unavailable after `seconds`, or of a silent agent."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not holds() and not self.over:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise errors.Unavailable(f"the agent gave no answer in {seconds:g} s", kind="AgentSlow")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(min(left, limits.AGENT_SILENCE_SECONDS_MAX)):
                    await self._waiter
            except TimeoutError:
                self._client.suspect()
            finally:
                self._waiter = None

    async def more(self, than: int, seconds: float) -> None:
        """Wait until more than `than` bytes are ready or the question is over. Raises Unavailable."""
        await self.changed(lambda: self.ready > than, seconds)

    def check(self) -> None:
        """Raise what the question failed with, or Unavailable when the agent went away, if so."""
        if self.error is not None:
            raise self.error
        if isinstance(self.ended, wire.Failed):
            raise wire.failure(self.ended.name, self.ended.kind, self.ended.message)

    def close(self) -> None:
        """No longer interested."""
        self._client.drop(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Link(asyncio.Protocol):
    """One connection of a client."""

    transport: asyncio.Transport

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._splitter = wire.Splitter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._client.made(self)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                self._client.take(wire.answer(body))
        except errors.Invalid as error:
            _log.error("the agent is cut off: %s", error)
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._client.lost(self, error)


class AgentClient:
    """A connection to the agent that is made again, with growing pauses, whenever it breaks.

    While there is none, questions raise Unavailable at once, so reads pass by the cache.
    """

    def __init__(self, path: Path, words: Words | None = None) -> None:
        self.path = path
        self._words = words
        self._link: _Link | None = None
        self._alive = False
        self._questions: dict[int, Question] = {}
        self._number = 0
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._ping: Question | None = None
        self._ping_at = 0.0
        self._unforgotten: OrderedDict[tuple[int, str, str], None] = OrderedDict()
        """Objects that changed while there was no agent to tell; told before anything else."""
        self._owing: asyncio.Task[None] | None = None

    # -- life

    async def start(self) -> None:
        """Connect if the agent is there; keep trying if it is not."""
        await self._connect()
        self._task = asyncio.create_task(self._keep_connected(), name="headrace agent client")

    async def stop(self) -> None:
        """Close the connection for good."""
        for task in (self._task, self._owing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._task = self._owing = None
        self.suspect(certain=True)
        await asyncio.sleep(0)

    @property
    def connected(self) -> bool:
        """True while the agent can be asked."""
        return self._alive and self._link is not None

    @property
    def trusted(self) -> bool:
        """True when metadata in the index may be believed: the agent knows of all this worker changed."""
        return self.connected and not self._unforgotten

    async def _connect(self) -> bool:
        """Connect, and believe it only after a sign of life: a stopped process's socket accepts, too."""
        with suppress(OSError, TimeoutError, errors.Unavailable):
            async with asyncio.timeout(limits.AGENT_SILENCE_SECONDS_MAX):
                await asyncio.get_running_loop().create_unix_connection(lambda: _Link(self), str(self.path))
                sign = self._ask(wire.Ping)
                await sign.changed(lambda: False, limits.AGENT_SILENCE_SECONDS_MAX)
            if sign.error is None:
                self._alive = True
                self._owe()  # told before anything is believed
                return True
        self.suspect(certain=True)
        return False

    async def _keep_connected(self) -> None:
        dice, pause = fresh(), limits.AGENT_RETRY_SECONDS_MIN
        while True:
            if self.connected:
                pause = limits.AGENT_RETRY_SECONDS_MIN
                self._lost.clear()
                await self._lost.wait()
            elif not await self._connect():
                await asyncio.sleep(pause * dice.uniform(0.5, 1.0))
                pause = min(2 * pause, limits.AGENT_RETRY_SECONDS_MAX)

    def made(self, link: _Link) -> None:
        """A connection stands; it is believed after its first sign of life."""
        self._link = link

    def take(self, answer: wire.Answer) -> None:
        """Hand an answer to its question."""
        question = self._questions.get(answer.number)
        if question is not None:
            question.take(answer)
            if question.over:
                del self._questions[answer.number]

    def lost(self, link: _Link, error: Exception | None) -> None:
        """Everybody who waits learns at once that the agent is gone."""
        if link is not self._link:
            return  # an earlier connection's last word
        self._link = None
        self._alive = False
        self._ping = None
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.fail(errors.Unavailable(f"the agent went away: {error or 'connection closed'}", kind="AgentGone"))
        self._lost.set()

    def suspect(self, *, certain: bool = False) -> None:
        """Nothing came for a while: ask for a sign of life, and cut the connection when none comes."""
        link, now = self._link, asyncio.get_running_loop().time()
        if link is None:
            return
        unanswered = self._ping is not None and not self._ping.over
        if certain or (unanswered and now - self._ping_at >= limits.AGENT_SILENCE_SECONDS_MAX):
            link.transport.abort()
            self.lost(link, None)
        elif not unanswered:
            self._ping_at = now
            self._ping = self._ask(wire.Ping)

    # -- questions

    def fill(
        self, binding: int, key: str, version: Version | None, block: int, *, demand: bool = True, strict: bool = True
    ) -> Question:
        """Ask for a block. Raises Unavailable when there is no agent."""
        return self._ask(lambda number: wire.Fill(number, binding, key, version, block, demand, strict))

    async def forget(self, binding: Binding, key: str) -> None:
        """The object is about to change, or has changed: drop what is known of it everywhere.

        Returns when no worker can find the old metadata any more. Without an agent it is noted and
        told later, until then this worker believes no metadata at all, and no worker ever believes
        any that is older than the change: this one may not live to tell.
        """
        name = (binding.id, binding.bucket, key)
        self._unforgotten.pop(name, None)
        self._unforgotten[name] = None
        if len(self._unforgotten) > limits.AGENT_FORGETS_PENDING_MAX:
            self._unforgotten.popitem(last=False)  # it need not be told: what is older than now is in doubt for all
            self._doubt()
        if self.connected:
            await self._forget(name)
        else:
            self._doubt()

    async def _forget(self, name: tuple[int, str, str]) -> None:
        binding, bucket, key = name
        try:
            await self._done(lambda number: wire.Forget(number, binding, key))
        except (errors.Unavailable, errors.Busy):
            self._doubt()
            self._owe()  # stays noted
            return
        self._unforgotten.pop(name, None)
        if self._words is not None:
            self._words.stamp(stripe(bucket, key))

    def _doubt(self) -> None:
        if self._words is not None:
            self._words.doubt(wall())

    def _owe(self) -> None:
        if self._unforgotten and (self._owing is None or self._owing.done()):
            self._owing = asyncio.create_task(self._catch_up(), name="headrace agent client, owing")

    async def _catch_up(self) -> None:
        while self._unforgotten and self.connected:
            for name in list(self._unforgotten):
                if self.connected:
                    await self._forget(name)
            if self._unforgotten:
                await asyncio.sleep(limits.AGENT_RETRY_SECONDS_MAX)

    async def ingest(self, binding: Binding, key: str, info: ObjectInfo, path: Path, asked: float) -> None:
        """`begin_ingest`, and wait until it is done."""
        await (await self.begin_ingest(binding, key, info, path, asked))

    async def begin_ingest(
        self, binding: Binding, key: str, info: ObjectInfo, path: Path, asked: float
    ) -> Coroutine[None, None, None]:
        """Hand over a spool file whose body the origin acknowledged; `asked`: steady time the write was sent.

        Returns, as `forget` does, when no worker can find older metadata any more; what is returned
        waits until the cache has the body. Both raise Busy (the cache does not take it) and
        Unavailable (no agent); the caller then removes the file, and nothing is known of the object.
        """
        try:
            question = self._ask(lambda number: wire.Ingest(number, binding.id, key, info, str(path), asked))
            try:
                await question.changed(lambda: question.ready > 0, limits.AGENT_ANSWER_SECONDS_MAX)
                question.check()
            except BaseException:
                question.close()
                raise
        except BaseException:
            await self.forget(binding, key)
            raise
        if self._words is not None:
            self._words.stamp(stripe(binding.bucket, key))
        return self._end(question)

    async def stage(self, binding: Binding, key: str) -> None:
        """Have the whole object brought in behind. Raises NotFound, Busy, Unavailable."""
        await self._done(lambda number: wire.Stage(number, binding.id, key))

    async def damage(
        self, binding: int, key: str, version: Version, block: int, segment: int, *, corrupt: bool
    ) -> None:
        """A cached block is not usable: have it dropped. Raises Unavailable."""
        await self._done(lambda number: wire.Damage(number, binding, key, version, block, segment, corrupt))

    def tell(self, message: wire.Prefetch | wire.Note | wire.Touch) -> bool:
        """Send what needs no answer; False when there is no agent, or it does not keep up."""
        link = self._link
        if link is None or link.transport.get_write_buffer_size() > limits.AGENT_SEND_BYTES_MAX // 4:
            return False
        link.transport.write(wire.encode(message))
        return True

    def drop(self, question: Question) -> None:
        """Nobody waits for the question any more."""
        if self._questions.pop(question.number, None) is not None and self._link is not None:
            self._link.transport.write(wire.encode(wire.Cancel(question.number)))

    async def _done(self, make: Callable[[int], wire.Question]) -> None:
        await self._end(self._ask(make))

    async def _end(self, question: Question) -> None:
        try:
            await question.changed(lambda: False, limits.AGENT_ANSWER_SECONDS_MAX)
            question.check()
        finally:
            question.close()

    def _ask(self, make: Callable[[int], wire.Question]) -> Question:
        link = self._link
        if link is None or link.transport.get_write_buffer_size() > limits.AGENT_SEND_BYTES_MAX:
            raise errors.Unavailable("there is no agent to ask", kind="AgentGone")
        self._number += 1
        question = Question(self, self._number)
        message = wire.encode(make(self._number))
        self._questions[self._number] = question
        link.transport.write(message)
        return question
