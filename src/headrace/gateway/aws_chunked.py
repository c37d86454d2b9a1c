"""The framing of `aws-chunked` bodies: bytes off the wire into data, chunk ends and trailers. Pure.

Source: "Signature calculations for the Authorization header: transferring payload in multiple
chunks" in the Amazon S3 API reference. A chunk is `SIZE[;chunk-signature=HEX]CRLF data CRLF`, the
last has size 0 and is followed by trailer lines, when announced, and an empty line. (A *chunk* is
the wire's word; headrace's own unit is the block.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from headrace.base.errors import Invalid
from headrace.base.limits import CHUNK_HEADER_BYTES_MAX, PUT_BYTES_MAX, TRAILER_BYTES_MAX

CHUNK_BYTES_MIN = 8 * 1024
"""Signed chunks but the last must be this long, so that nobody pays a signature per byte."""
TRAILER_SIGNATURE = "x-amz-trailer-signature"

_HEADER = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?\r\n\Z")
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e]+)[ \t]*\r?\n\Z")


class AwsChunkEnd(NamedTuple):
    """All data of a chunk was yielded. `signature` is "" in unsigned framing."""

    size_bytes: int
    signature: str


class Trailers(NamedTuple):
    """The trailer lines in order, lower-case names, and their signature ("" when there was none)."""

    fields: tuple[tuple[str, str], ...]
    signature: str


Token = bytes | AwsChunkEnd | Trailers

_HEAD, _DATA, _DATA_END, _TRAIL, _DONE = range(5)


class AwsChunkDecoder:
    """Feed bytes as they come; tokens come out as soon as they are known.

    `signed`: every chunk carries a signature. `trailing`: trailer lines follow the last chunk. Raises
    Invalid: IncompleteBody for framing that is wrong or cut off, InvalidChunkSizeError,
    MalformedTrailerError. The tokens do not depend on how the bytes were cut into pieces, except
    that data comes in as many pieces as it was fed in.
    """

    def __init__(self, *, signed: bool, trailing: bool) -> None:
        self._signed = signed
        self._trailing = trailing
        self._state = _HEAD
        self._line = bytearray()
        self._left = 0
        self._end = AwsChunkEnd(0, "")
        self._short = False
        self._fields: list[tuple[str, str]] = []
        self._trailer_signature = ""
        self._trailer_bytes = 0

    @property
    def finished(self) -> bool:
        """True when the end of the framing was seen."""
        return self._state == _DONE

    def feed(self, piece: bytes) -> Iterator[Token]:
        """The tokens that `piece` completes; exhaust it before feeding more."""
        position = 0
        while position < len(piece):
            if self._state == _DATA:
                data = piece[position : position + self._left] if position or self._left < len(piece) else piece
                self._left -= len(data)
                position += len(data)
                yield data
                if not self._left:
                    self._state = _DATA_END
                    yield self._end
                continue
            position = self._take_line(piece, position)
            if not self._line.endswith(b"\n"):
                return
            line = bytes(self._line)
            self._line.clear()
            yield from self._on_line(line)

    def finish(self) -> None:
        """Check that nothing is missing at the end of the body. Raises Invalid (IncompleteBody)."""
        if not self.finished:
            raise _incomplete("the body ended inside the chunked framing")

    def _take_line(self, piece: bytes, position: int) -> int:
        """Move bytes up to the next line feed into the line buffer, within its bound."""
        stop = piece.find(b"\n", position) + 1 or len(piece)
        limit = TRAILER_BYTES_MAX if self._state == _TRAIL else CHUNK_HEADER_BYTES_MAX
        if len(self._line) + stop - position > limit:
            raise _incomplete("a chunk header or trailer line is too long")
        self._line += piece[position:stop]
        return stop

    def _on_line(self, line: bytes) -> Iterator[Token]:
        if self._state == _HEAD:
            yield from self._on_header(line)
        elif self._state == _DATA_END:
            if line != b"\r\n":
                raise _incomplete("chunk data is longer than its announced size")
            self._state = _HEAD
        elif self._state == _TRAIL:
            yield from self._on_trailer(line)
        elif line != b"\r\n":
            raise _incomplete("there are bytes after the last chunk")

    def _on_header(self, line: bytes) -> Iterator[Token]:
        found = _HEADER.match(line)
        if found is None or (found[2] is not None) != self._signed:
            raise _incomplete("a chunk header is malformed")
        size = int(found[1], 16)
        if size > PUT_BYTES_MAX:
            raise Invalid("A chunk is larger than the largest object.", kind="InvalidChunkSizeError")
        self._end = AwsChunkEnd(size, (found[2] or b"").decode())
        if size == 0:
            self._state = _TRAIL
            yield self._end
            return
        if self._signed and self._short:
            raise Invalid(
                f"Only the last chunk is allowed to have a size less than {CHUNK_BYTES_MIN} bytes",
                kind="InvalidChunkSizeError",
            )
        self._short = size < CHUNK_BYTES_MIN
        self._left = size
        self._state = _DATA

    def _on_trailer(self, line: bytes) -> Iterator[Token]:
        """One line after the last chunk; writers differ in how they end trailer lines."""
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise _malformed_trailer("it is too long")
        if line in (b"\r\n", b"\n"):
            if self._trailing and self._signed and not self._trailer_signature and self._fields:
                return  # an empty line before the signature, as some writers put
            self._state = _DONE
            yield Trailers(tuple(self._fields), self._trailer_signature)
            return
        found = _TRAILER.match(line)
        if found is None or not self._trailing or self._trailer_signature:
            raise _malformed_trailer("a line is not of the form name:value")
        name, value = found[1].decode().lower(), found[2].decode()
        if name == TRAILER_SIGNATURE:
            self._trailer_signature = value
        else:
            self._fields.append((name, value))


def _incomplete(why: str) -> Invalid:
    return Invalid(f"The request body does not follow the aws-chunked framing: {why}.", kind="IncompleteBody")


def _malformed_trailer(why: str) -> Invalid:
    return Invalid(
        "The request contained trailing data that was not well-formed or did not conform to our "
        f"published schema: {why}.",
        kind="MalformedTrailerError",
    )
