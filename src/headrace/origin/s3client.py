"""One signed request to an S3 endpoint: pooling, addressing, signature, deadlines, errors.

All clients of a process share one bounded session per event loop. Only reads are retried, by
tenacity and within a budget that a failing origin empties, so that retries never become a storm.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay
from yarl import URL

from headrace.base import limits, rng
from headrace.base.errors import Busy, HeadraceError, Unavailable
from headrace.origin.base import Body
from headrace.origin.credentials import Account, Chain, Keys
from headrace.origin.s3body import Watched, slices
from headrace.origin.s3sign import Signer
from headrace.origin.s3wire import error_of
from headrace.origin.urls import OriginUrl, redacted

T = TypeVar("T")
Query = Sequence[tuple[str, str]]
UNSIGNED = "UNSIGNED-PAYLOAD"


class Timeouts(NamedTuple):
    """Seconds each wait on an origin may take."""

    connect: float = limits.ORIGIN_CONNECT_SECONDS_MAX
    first_byte: float = limits.ORIGIN_FIRST_BYTE_SECONDS_MAX
    stall: float = limits.ORIGIN_STALL_SECONDS_MAX


TIMEOUTS = Timeouts()


class Late(Unavailable):
    """The origin let a deadline pass. Not retried: the time is spent."""


class _Pool:
    """The session of one event loop, closed with its last user."""

    _pools: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Pool]]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, bundle: str) -> None:
        self.users = 0
        self._bundle = bundle
        context = ssl.create_default_context(cafile=bundle or None)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=limits.ORIGIN_CONNECTIONS_MAX, keepalive_timeout=limits.ORIGIN_IDLE_SECONDS_MAX, ssl=context
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=limits.ORIGIN_READ_BUFFER_BYTES,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        )
        # aiohttp sends PUT and DELETE again when a kept connection drops: a write whose answer was
        # lost must not be repeated behind our back (a conditional one would then fail falsely).
        self.session._retry_connection = False  # noqa: SLF001 - aiohttp has no public switch

    @classmethod
    def of(cls, bundle: str) -> _Pool:
        """The running loop's pool for one set of certificate authorities."""
        pools = cls._pools.setdefault(asyncio.get_running_loop(), {})
        if bundle not in pools:
            pools[bundle] = cls(bundle)
        pools[bundle].users += 1
        return pools[bundle]

    async def release(self) -> None:
        """One user less; the last closes the session."""
        self.users -= 1
        if not self.users:
            self._pools.get(asyncio.get_running_loop(), {}).pop(self._bundle, None)
            await self.session.close()


class S3Client:
    """Requests to the endpoint and with the credentials of one `s3://` URL."""

    def __init__(self, url: OriginUrl, *, timeouts: Timeouts = TIMEOUTS, chance: rng.Random | None = None) -> None:
        self.url = url
        self.timeouts = timeouts
        self._limit = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.first_byte)
        self._chain = Chain(url)
        self._signer = Signer()
        self._chance = chance or rng.fresh()
        self._pool: _Pool | None = None
        self._regions: dict[str, str] = {}
        self._tokens = limits.ORIGIN_RETRY_TOKENS_MAX
        self._proxies = getproxies()
        self.parts = asyncio.Semaphore(limits.ORIGIN_PARTS_IN_FLIGHT_MAX)
        """Bounds the parts that all uploads of this client hold in memory at once."""

    async def close(self) -> None:
        """Give the shared session back."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.release()

    async def identity(self) -> tuple[str, str]:
        """(endpoint, access key): equal for two clients when one may copy what the other may read."""
        account, keys = await self._chain.account(), await self._chain.keys()
        return account.endpoint, keys.access_key if keys else ""

    async def region(self) -> str:
        """The account's own region."""
        return (await self._chain.account()).region

    async def send(
        self,
        method: str,
        bucket: str,
        key: str = "",
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes | Body | None = None,
        length: int | None = None,
        payload: str = UNSIGNED,
        raw_path: str | None = None,
    ) -> aiohttp.ClientResponse:
        """Send one request once; the answer whatever its status, its body unread.

        A streamed `body` needs `length`. `payload` is the hash to sign. Raises Unavailable when the
        origin cannot be reached, cuts the connection or lets a deadline pass, and what `body` raises.
        """
        account = await self._chain.account()
        region = await self._region(account, bucket)
        url = self._address(account, region, bucket, key if raw_path is None else raw_path, query, raw_path is not None)
        signed = {"host": url.split("/", 3)[2], **(headers or {})}
        if body is not None:
            signed["content-length"] = str(len(body) if isinstance(body, bytes) else length)
        elif method in {"PUT", "POST"}:
            signed["content-length"] = "0"
        self._sign(await self._chain.keys(), method, url, signed, region, payload)
        pool = self._pool = self._pool or _Pool.of(account.bundle)
        what = f"{method} {url.partition('?')[0]}"
        if isinstance(body, bytes) and len(body) > limits.SLICE_BYTES_MAX:
            length = len(body)
            body = slices(body)
        return await self._exchange(pool.session, method, url, signed, body, length, what)

    async def _exchange(
        self, session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str],
        body: bytes | Body | None, length: int | None, what: str,
    ) -> aiohttp.ClientResponse:  # fmt: skip
        """The request itself, each wait under its deadline."""
        watched: Watched | None = None
        try:
            async with asyncio.timeout(self.timeouts.first_byte) as deadline:
                data: Any = body
                if body is not None and not isinstance(body, bytes):
                    watched = Watched(body, length or 0, deadline, self.timeouts.stall, self.timeouts.first_byte)
                    data = watched
                response = await session.request(
                    method, URL(url, encoded=True), data=data, headers=headers, timeout=self._limit,
                    allow_redirects=False, proxy=self._proxy(url),
                )  # fmt: skip
            connection = response.connection
            if connection is not None and connection.protocol is not None:
                connection.protocol.read_timeout = self.timeouts.stall  # from the next bytes on
            return response
        except TimeoutError as error:
            self._source_error(watched)
            raise Late(f"{what}: the origin did not answer in time", kind="ServiceUnavailable") from error
        except (aiohttp.ClientError, OSError) as error:
            self._source_error(watched)
            raise Unavailable(f"{what}: {type(error).__name__}: {error}", kind="ServiceUnavailable") from error
        finally:
            if watched is not None:
                watched.released = True

    @staticmethod
    def _source_error(watched: Watched | None) -> None:
        """Raise the error of the request's own body, when that was the cause."""
        if watched is not None and isinstance(watched.error, HeadraceError):
            raise watched.error

    async def call(self, method: str, bucket: str, key: str = "", **more: Any) -> aiohttp.ClientResponse:
        """`send`, with every status above 299 raised as the error it stands for."""
        response = await self.send(method, bucket, key, **more)
        if response.status >= 300:
            raise await self.failure(response, f"{method} {bucket}/{key}")
        self._tokens = min(self._tokens + 0.1, limits.ORIGIN_RETRY_TOKENS_MAX)
        return response

    async def answer(self, method: str, bucket: str, key: str = "", **more: Any) -> tuple[Mapping[str, str], bytes]:
        """`call`, with the body read whole (bounded)."""
        response = await self.call(method, bucket, key, **more)
        return response.headers, await read_whole(response, limits.ORIGIN_ANSWER_BYTES_MAX)

    async def failure(self, response: aiohttp.ClientResponse, what: str) -> HeadraceError:
        """The error that an answer stands for; the answer is used up."""
        try:
            body = await read_whole(response, limits.ORIGIN_ERROR_BYTES_MAX)
        except Unavailable:
            body = b""
        return error_of(response.status, response.headers, body, what)

    async def retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run a read, and again where the origin was briefly unwell: never a write."""
        try:
            return await attempt()  # most pass, and should not pay for the machinery
        except (Busy, Unavailable) as error:
            if not self._worth_another(error):
                raise
        await asyncio.sleep(self._pause(1))
        retrying = AsyncRetrying(
            stop=stop_after_attempt(limits.ORIGIN_ATTEMPTS_MAX - 1) | stop_after_delay(limits.ORIGIN_RETRY_SECONDS_MAX),
            wait=lambda state: self._pause(state.attempt_number + 1),
            retry=retry_if_exception(self._worth_another),
            reraise=True,
        )
        return await retrying(attempt)

    def _pause(self, attempt: int) -> float:
        """Seconds before the next try: full jitter over a window of 100 ms that doubles, at most 2 s."""
        return self._chance.uniform(0, min(2.0, 0.05 * 2**attempt))

    def _worth_another(self, error: BaseException) -> bool:
        """True for what may pass by itself, while the budget lasts; each retry costs ten good answers."""
        if isinstance(error, Late) or not isinstance(error, (Busy, Unavailable)) or self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _address(self, account: Account, region: str, bucket: str, key: str, query: Query, raw: bool = False) -> str:
        """The request's URL, percent-encoded as S3 signs it."""
        base = account.endpoint or f"https://s3.{region}.amazonaws.com"
        path = "/" + (key if raw else quote(key, safe="-_.~/", errors="surrogateescape"))
        if bucket and self._virtual(account, bucket):
            parts = urlsplit(base)
            base = f"{parts.scheme}://{bucket}.{parts.netloc}{parts.path}"
        elif bucket:
            path = f"/{bucket}{path}"
        pairs = [f"{_word(name)}={_word(value)}" if value else _word(name) for name, value in query]
        return f"{base}{path}" + (f"?{'&'.join(pairs)}" if pairs else "")

    def _virtual(self, account: Account, bucket: str) -> bool:
        """True when the bucket goes into the host name: asked for, or AWS's own with a name fit for it."""
        wish = self.url.options.get("addressing", "auto")
        if wish != "auto":
            return wish == "virtual"
        return not account.endpoint and "." not in bucket and bucket == bucket.lower() and "_" not in bucket

    def _sign(
        self, keys: Keys | None, method: str, url: str, headers: dict[str, str], region: str, payload: str
    ) -> None:
        """Add the signature to `headers`; nothing for anonymous."""
        if keys is not None:
            self._signer.sign(keys, method, url, headers, region, payload)

    async def _region(self, account: Account, bucket: str) -> str:
        """The bucket's region: asked of AWS once per bucket, configured for everything else."""
        if account.endpoint or not bucket or "region" in self.url.options:
            return account.region
        if bucket not in self._regions:
            pool = self._pool = self._pool or _Pool.of(account.bundle)
            url = f"https://s3.{account.region}.amazonaws.com/{bucket}"
            headers: dict[str, str] = {}
            self._sign(await self._chain.keys(), "HEAD", url, headers, account.region, UNSIGNED)
            response = await self._exchange(pool.session, "HEAD", url, headers, None, None, f"HEAD {url}")
            response.release()
            if len(self._regions) >= limits.ACCOUNT_BUCKETS_MAX:
                self._regions.clear()
            self._regions[bucket] = response.headers.get("x-amz-bucket-region", account.region)
        return self._regions[bucket]

    def _proxy(self, url: str) -> str | None:
        """The proxy that the environment asks for; found by urllib, so NO_PROXY holds too."""
        if not self._proxies:
            return None
        parts = urlsplit(url)
        found = self._proxies.get(parts.scheme)
        return found if found and not proxy_bypass(parts.netloc) else None

    def __repr__(self) -> str:
        return f"S3Client({redacted(self.url.text)})"


def _word(text: str) -> str:
    """A query name or value, percent-encoded as SigV4 wants it."""
    return quote(text, safe="-_.~", errors="surrogateescape")


async def read_whole(response: aiohttp.ClientResponse, size_max: int) -> bytes:
    """The answer's body, at most `size_max` bytes. Raises Unavailable when it is longer or cut off."""
    pieces: list[bytes] = []
    size = 0
    async for piece in Pieces(response):
        size += len(piece)
        if size > size_max:
            response.close()
            raise Unavailable(f"the origin's answer is longer than {size_max} bytes", kind="InternalError")
        pieces.append(piece)
    return b"".join(pieces)


class Pieces:
    """The answer's body as it comes. Raises Unavailable when it is cut off or stalls.

    Close it (`aclose`) when leaving early: the connection is kept where the answer was read whole, and
    given up otherwise. A class, since a generator that was never started runs no `finally`.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._ended = False

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            content = self._response.content
            piece = b""
            while not piece and not (content.at_eof() and content.exception() is None):
                piece, _ = await content.readchunk()  # unlike readany, joins no pieces
        except TimeoutError as error:
            self._response.close()
            raise Late("the origin stopped in the middle of its answer", kind="ServiceUnavailable") from error
        except (aiohttp.ClientError, OSError) as error:
            self._response.close()
            raise Unavailable(f"the origin cut its answer off: {error}", kind="ServiceUnavailable") from error
        if not piece:
            self._ended = True
            self._response.release()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Give the connection back."""
        self._ended = True
        self._response.release()

    def __del__(self) -> None:
        self._response.close()
