"""How keys become obstore paths. Pure.

obstore takes slashes off both ends of a path and refuses empty, `.` and `..` segments and control
characters. Keys are byte-exact here, so what it would change is refused, and the memory store, which
can hold anything, is given keys as hexadecimal: safe in every byte, and in the same order.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from headrace.base.errors import Invalid


class Keys(Protocol):
    """One way to write keys as paths; order is kept."""

    def path(self, key: str) -> str:
        """The path of a key. Raises Invalid when the store cannot hold it."""

    def key(self, path: str) -> str:
        """The key of a path that was listed."""

    def folder(self, prefix: str) -> str:
        """The longest whole-segment path that every key with this prefix lies under."""

    def offset(self, after: str) -> str:
        """A path that sorts as `after` does; it need not be one that can be stored."""


class HexKeys:
    """Keys as the hexadecimal of their UTF-8."""

    def path(self, key: str) -> str:
        """The path of a key."""
        return key.encode("utf-8", "surrogateescape").hex()

    def key(self, path: str) -> str:
        """The key of a path that was listed."""
        return bytes.fromhex(path).decode("utf-8", "surrogateescape")

    def folder(self, prefix: str) -> str:  # noqa: ARG002 - a flat name space
        """The whole store: hexadecimal names have no segments."""
        return ""

    def offset(self, after: str) -> str:
        """A path that sorts as `after` does."""
        return self.path(after)


class PlainKeys(NamedTuple):
    """Keys as they are, behind a prefix ("" or ending in "/")."""

    prefix: str = ""

    def path(self, key: str) -> str:
        """The path of a key. Raises Invalid when obstore would change or refuse it."""
        path = self.prefix + key
        segments = path.split("/")
        if (
            not key
            or any(part in {"", ".", ".."} for part in segments)
            or any(ord(c) < 32 or ord(c) == 127 for c in key)
        ):
            raise Invalid(
                f"this origin cannot hold the key {key!r}: it begins or ends with /, has an empty, . or .. segment "
                "or control characters",
                kind="InvalidRequest",
            )
        return path

    def key(self, path: str) -> str:
        """The key of a path that was listed."""
        return path[len(self.prefix) :]

    def folder(self, prefix: str) -> str:
        """The longest whole-segment path that every key with this prefix lies under."""
        return (self.prefix + prefix).rpartition("/")[0]

    def offset(self, after: str) -> str:
        """A path that sorts as `after` does."""
        return self.prefix + after
