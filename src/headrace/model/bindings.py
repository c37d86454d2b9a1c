"""A bucket bound to an origin: the plain value that is stored, sent and looked up."""

from __future__ import annotations

from typing import NamedTuple


class Binding(NamedTuple):
    """One bucket name and the origin that is its store of record.

    `id` is a small positive integer that never changes and is never given to another binding of the
    same data directory: cached blocks are filed under it. `url` names the origin (`store:///dir`,
    `file:///dir`, `s3://name`, ...). `rules` are (key prefix, freshness rule) pairs, the rule one of
    `validate`, `lease(30s)`, `immutable`; the longest matching prefix wins and `validate` is what
    holds where none matches.
    """

    id: int
    bucket: str
    url: str
    rules: tuple[tuple[str, str], ...] = ()
