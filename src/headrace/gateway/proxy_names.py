"""What a bound bucket is called here and at its S3 origin, and the translation between the two. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote_plus
from xml.sax.saxutils import escape, unescape  # text only, nothing is parsed

from headrace.base.errors import Invalid

_NAMES = re.compile(rb"<(Name|Bucket|BucketName)>([^<]*)</\1>")
_KEYS = re.compile(rb"<(Key|Prefix|Marker|NextMarker|StartAfter|KeyMarker|NextKeyMarker)>([^<]*)</\1>")
_PLACES = re.compile(rb"<(Location|Resource)>([^<]*)</\1>")
_KEY_PARAMS = ("prefix", "marker", "start-after", "key-marker")
_LISTING_PARAMS = frozenset({
    "continuation-token", "delimiter", "encoding-type", "fetch-owner", "key-marker", "list-type", "marker", "max-keys",
    "max-uploads", "prefix", "start-after", "upload-id-marker", "uploads", "version-id-marker", "versions", "x-id",
})  # fmt: skip
"""All that may be asked of a bucket that is a prefix of another, besides its location."""
_SIGNATURE = "x-amz-"
_OWN_DOCUMENTS = frozenset({
    "accelerate", "acl", "analytics", "cors", "encryption", "intelligent-tiering", "inventory", "lifecycle",
    "location", "logging", "metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus",
    "publicAccessBlock", "replication", "requestPayment", "tagging", "versioning", "website",
})  # fmt: skip
"""Subresources of a bucket as such; `<Key>` and `<Prefix>` in them mean other things."""


class Names(NamedTuple):
    """`bound`: the bucket's name here; `bucket` and `prefix`: what it is at the origin."""

    bound: str
    bucket: str
    prefix: str

    @property
    def same(self) -> bool:
        """True when nothing needs translating."""
        return self.bound == self.bucket and not self.prefix

    def query(self, params: Mapping[str, str], key: str) -> list[tuple[str, str]]:
        """The query for the origin: signature parameters dropped, keys in it put behind the prefix."""
        kept = {name: value for name, value in params.items() if not name.lower().startswith(_SIGNATURE)}
        if self.prefix and not key and "location" not in kept:
            for name in _KEY_PARAMS:
                if kept.get(name):
                    kept[name] = self.prefix + kept[name]
            kept["prefix"] = kept.get("prefix") or self.prefix
        return list(kept.items())

    def check(self, method: str, params: Mapping[str, str], key: str) -> None:
        """Refuse what would reach beyond a prefix: documents and the life of the whole bucket.

        Raises Invalid (NotImplemented).
        """
        if not self.prefix or key:
            return
        asked = {name for name in params if not name.lower().startswith(_SIGNATURE)} - {"x-id"}
        if method in {"GET", "HEAD"} and (asked == {"location"} or asked <= _LISTING_PARAMS):
            return
        raise Invalid(
            f"{self.bound} is a prefix of a bucket; what holds for the whole bucket is set and asked at its origin",
            kind="NotImplemented",
        )

    def answered(self, body: bytes, params: Mapping[str, str], place: str, *, failed: bool) -> bytes:
        """An answer of the origin in the names used here; `place` is the object's own URL."""
        if self.same:
            return body
        body = _replace(_NAMES, body, lambda _, text: self.bound if text == self.bucket else text)
        body = _replace(_PLACES, body, lambda tag, text: place if tag == b"Location" else self._resource(text))
        if self.prefix and (failed or not _OWN_DOCUMENTS & params.keys()):
            encoded = b"<EncodingType>url</EncodingType>" in body
            body = _replace(_KEYS, body, lambda _, text: self._key(text, encoded))
        return body

    def _key(self, text: str, encoded: bool) -> str:
        """A key without the prefix."""
        if not encoded:
            return text.removeprefix(self.prefix)
        plain = unquote_plus(text)
        return quote(plain[len(self.prefix) :], safe="-_.*/") if plain.startswith(self.prefix) else text

    def _resource(self, text: str) -> str:
        """`/bucket/prefix/key` as `/bound/key`."""
        head = f"/{self.bucket}"
        if text != head and not text.startswith(f"{head}/"):
            return text
        rest = text[len(head) + 1 :].removeprefix(self.prefix)
        return f"/{self.bound}/{rest}" if rest else f"/{self.bound}"


_ENTITIES = {"&quot;": '"', "&apos;": "'", "&#13;": "\r", "&#xD;": "\r", "&#10;": "\n", "&#xA;": "\n", "&#9;": "\t"}


def _replace(pattern: re.Pattern[bytes], body: bytes, change: Callable[[bytes, str], str]) -> bytes:
    """Change the text of elements without attributes and children, byte by byte the same elsewhere."""

    def one(found: re.Match[bytes]) -> bytes:
        text = unescape(found[2].decode("utf-8", "surrogateescape"), _ENTITIES)
        new = change(found[1], text)
        if new == text:
            return found[0]
        return b"<%b>%b</%b>" % (found[1], escape(new).encode("utf-8", "surrogateescape"), found[1])

    return pattern.sub(one, body)
