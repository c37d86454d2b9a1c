"""The shape cache: one regex per header layout verifies a signed GET in a few microseconds.

A client sends thousands of requests whose heads differ only in path, time, range and signature. The
first one goes through the general parser and `sigv4.Verifier`; from it a *shape* is built: every
header name, the order, the credential scope and most values become literals, what varies becomes a
group of printable bytes. `match` then parses, validates and verifies in one go.

By construction a shape accepts only what the general verifier would accept: unreserved path bytes
alone (so the canonical path is the path), no query, every signed value without runs of spaces, every
x-amz-* header signed, the same secret. Anything else does not match and goes to the judge. It never
decides that a request is *wrong*.
"""

from __future__ import annotations

import hashlib
import re
from hmac import compare_digest
from typing import NamedTuple, Protocol

from headrace.base.limits import CLOCK_SKEW_SECONDS_MAX
from headrace.gateway.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, Signature, parse_amz_date

_PATH = rb"(/[A-Za-z0-9_.~/-]{1,1500})"
_VALUE = rb"([!-~]{1,512}(?: [!-~]{1,512}){0,64})"
_DATES_MAX = 16
_LITERAL = frozenset(
    {b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection", b"x-amz-checksum-mode",
     b"x-amz-content-sha256", b"content-length"}
)  # fmt: skip
_VARYING = frozenset(
    {b"amz-sdk-invocation-id", b"amz-sdk-request", b"x-amz-user-agent", b"range", b"if-match", b"traceparent",
     b"x-amz-date", b"authorization", b"tracestate", b"x-amzn-trace-id"}
)  # fmt: skip
_FIXED_VALUES = {
    b"connection": (b"keep-alive",),
    b"content-length": (b"0",),
    b"x-amz-checksum-mode": (b"enabled",),
    b"x-amz-content-sha256": (EMPTY_SHA256.encode(), UNSIGNED_PAYLOAD.lower().encode()),
}
_RANGE = re.compile(rb"bytes=(\d{1,18})-(\d{0,18})\Z")


class Matched(NamedTuple):
    """What a shape read out of a head it verified. `range` is the header's value or None."""

    path: bytes
    range: bytes | None
    if_match: bytes | None
    trace: bytes | None


class _Hash(Protocol):
    """The part of a hashlib object that is used here."""

    def copy(self) -> _Hash: ...

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Shape:
    """One header layout of one credential scope."""

    __slots__ = (
        "_amz_date_group",
        "_canonical",
        "_dates",
        "_groups",
        "_if_match_group",
        "_inner",
        "_outer",
        "_pattern",
        "_range_group",
        "_scope",
        "_signature_group",
        "_trace_group",
        "access_key",
        "bucket_prefix",
        "checksum_mode",
        "token",
    )

    def __init__(self, plan: _Plan, signature: Signature, bucket: bytes) -> None:
        self._pattern = re.compile(b"".join(plan.pattern))
        self._canonical = plan.canonical
        self._groups = plan.canonical_groups
        self._range_group = plan.groups.get(b"range", 0)
        self._if_match_group = plan.groups.get(b"if-match", 0)
        self._trace_group = plan.groups.get(b"traceparent", 0)
        self._amz_date_group = plan.groups[b"x-amz-date"]
        self._signature_group = plan.groups[b"authorization"]
        self._scope = signature.scope.encode()
        self._dates: dict[bytes, tuple[_Hash, float]] = {}
        block = signature.signing_key.ljust(64, b"\0")
        self._inner: _Hash = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer: _Hash = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        self.access_key = signature.access_key
        self.bucket_prefix = b"/" + bucket if bucket else b""
        self.checksum_mode = plan.checksum_mode
        self.token: object = None
        """Stands for the state of keys the shape was made under; void when the hot path has another."""

    def match(self, head: bytes, now: float) -> Matched | None:
        """Verify a whole request head; None means "ask the general verifier", never "refused"."""
        found = self._pattern.fullmatch(head)
        if found is None:
            return None
        dated = self._dates.get(found[self._amz_date_group])
        if dated is None or not dated[1] - 2 * CLOCK_SKEW_SECONDS_MAX <= now <= dated[1]:
            dated = self._date_state(found[self._amz_date_group], now)
            if dated is None:
                return None
        canonical = self._canonical % found.group(*self._groups)
        inner = dated[0].copy()
        inner.update(hashlib.sha256(canonical).hexdigest().encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        if not compare_digest(outer.digest().hex().encode(), found[self._signature_group]):
            return None
        return Matched(
            found[1],
            found[self._range_group] if self._range_group else None,
            found[self._if_match_group] if self._if_match_group else None,
            found[self._trace_group] if self._trace_group else None,
        )

    def _date_state(self, amz_date: bytes, now: float) -> tuple[_Hash, float] | None:
        """HMAC state after "algorithm, date, scope", with the last instant at which it is valid."""
        last = parse_amz_date(amz_date.decode()) + CLOCK_SKEW_SECONDS_MAX
        if not last - 2 * CLOCK_SKEW_SECONDS_MAX <= now <= last:
            return None
        state = self._inner.copy()
        state.update(b"AWS4-HMAC-SHA256\n%s\n%s\n" % (amz_date, self._scope))
        if len(self._dates) >= _DATES_MAX:
            self._dates.pop(next(iter(self._dates)))
        self._dates[amz_date] = (state, last)
        return state, last


class _Plan:
    """The regex and the canonical request under construction; `ok` turns False when no shape fits."""

    def __init__(self) -> None:
        self.pattern: list[bytes] = []
        self.groups: dict[bytes, int] = {}
        self.canonical = b""
        self.canonical_groups: tuple[int, ...] = ()
        self.checksum_mode = False
        self._count = 1

    def add_header(self, raw_name: bytes, gap: bytes, name: bytes, value: bytes, signed: bool) -> bool:
        """Add one header line; False when it can't be part of a shape."""
        if name in _LITERAL:
            allowed = _FIXED_VALUES.get(name)
            if (allowed and value.lower() not in allowed) or (signed and b"  " in value):
                return False
            self.checksum_mode |= name == b"x-amz-checksum-mode"
            self.pattern.append(re.escape(raw_name + b":" + gap + value) + rb"\r\n")
            return True
        if name not in _VARYING or name in self.groups:
            return False
        self._count += 1
        self.groups[name] = self._count
        self.pattern.append(re.escape(raw_name + b":" + gap) + self._group(name, value) + rb"\r\n")
        return True

    @staticmethod
    def _group(name: bytes, value: bytes) -> bytes:
        if name == b"x-amz-date":
            return rb"(" + re.escape(value[:8]) + rb"T\d{6}Z)"
        if name == b"authorization":
            return re.escape(value[:-64]) + rb"([0-9a-f]{64})"
        if name == b"range":
            return rb"(bytes=\d{1,18}-\d{0,18})"
        return _VALUE

    def canonicalize(self, signed: tuple[str, ...], values: dict[bytes, bytes], payload_hash: str) -> None:
        """Build the canonical request with a %s for the path and for each signed value that varies."""
        groups = [1]
        lines = [b"GET\n%s\n\n"]
        for text in signed:
            name = text.encode()
            if name in self.groups:
                groups.append(self.groups[name])
                lines.append(name.replace(b"%", b"%%") + b":%s\n")
            else:
                lines.append((name + b":" + values[name] + b"\n").replace(b"%", b"%%"))
        lines.append(f"\n{';'.join(signed)}\n{payload_hash}".encode().replace(b"%", b"%%"))
        self.canonical = b"".join(lines)
        self.canonical_groups = tuple(groups) if len(groups) > 1 else (1,)


def build(head: bytes, signature: Signature, bucket: bytes) -> Shape | None:
    """Make a shape from a head that the general verifier has just accepted.

    `bucket` is the bucket taken from the Host header (virtual-hosted addressing), else b"".
    None when this kind of request has no fast path (query, percent signs, unknown headers, ...).
    """
    if signature.presigned or not head.endswith(b"\r\n\r\n"):
        return None
    lines = head[:-4].split(b"\r\n")
    if not re.fullmatch(rb"GET " + _PATH + rb" HTTP/1\.1", lines[0]):
        return None
    plan = _Plan()
    plan.pattern.append(rb"GET " + _PATH + rb" HTTP/1\.1\r\n")
    values: dict[bytes, bytes] = {}
    for line in lines[1:]:
        raw_name, colon, rest = line.partition(b":")
        value = rest.lstrip(b" ")
        name = raw_name.lower()
        if not colon or name in values or not re.fullmatch(rb"[!-~]+(?: +[!-~]+)*", value):
            return None
        values[name] = value
        if not plan.add_header(
            raw_name, rest[: len(rest) - len(value)], name, value, name.decode() in signature.signed_headers
        ):
            return None
    if not values.keys() >= {b"host", b"authorization", b"x-amz-date", b"x-amz-content-sha256"}:
        return None
    if any(name not in signature.signed_headers for name in ("host", "x-amz-date", "x-amz-content-sha256")):
        return None
    if not values[b"authorization"].endswith(signature.seed_signature.encode()):
        return None
    plan.pattern.append(rb"\r\n")
    plan.canonicalize(signature.signed_headers, values, signature.payload_hash)
    shape = Shape(plan, signature, bucket)
    # A shape that would not accept the request it was made from is useless, and a sign of a flaw.
    return shape if shape.match(head, parse_amz_date(signature.amz_date)) is not None else None


def parse_range(value: bytes, size: int) -> tuple[int, int] | None:
    """[start, stop) of `bytes=a-b` or `bytes=a-` within `size`; None when it needs the general path."""
    found = _RANGE.match(value)
    if found is None:
        return None
    start = int(found[1])
    stop = min(int(found[2]) + 1, size) if found[2] else size
    return (start, stop) if start < stop else None
