"""Making the index agree with the segments again, after a start that was not clean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from headrace.base.errors import Damaged, Unavailable
from headrace.base.limits import INDEX_BATCH_ENTRIES_MAX
from headrace.media.index import IndexWriter
from headrace.media.scan import SegmentTable, has_footer, read_table, seal_scanned
from headrace.media.tiers import Tier

_log = structlog.get_logger("headrace.media")
Progress = Callable[[int, int], None]
"""Called with (segments done, segments in all)."""
RECENT_SECONDS = 5.0
"""Far longer than frames wait for their index commit."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild found."""

    segments: int = 0
    blocks: int = 0
    scanned: int = 0
    torn: int = 0
    damaged: int = 0


def rebuild(index: IndexWriter, tiers: Iterable[Tier], progress: Progress | None = None) -> Rebuilt:
    """Empty the index and fill it from every segment of `tiers`; blocks only, never metadata.

    Sealed segments are read by their footers. Unsealed ones are scanned, their data verified, and
    sealed. A segment without a readable first page is deleted. Blocks until done: call it before
    any log is open. Raises Unavailable (the index cannot be written).
    """
    index.clear()
    return _adopt(index, [(tier, key) for tier in tiers for key in tier.segment_ids()], progress)


def adopt_unsealed(index: IndexWriter, tiers: Iterable[Tier], progress: Progress | None = None) -> Rebuilt:
    """Add what unsealed segments hold to the index, and seal them."""
    unsealed = [(tier, key) for tier in tiers for key in tier.segment_ids() if not has_footer(tier.path_of(key))]
    return _adopt(index, unsealed, progress)


def adopt_recent(index: IndexWriter, tiers: Iterable[Tier], progress: Progress | None = None) -> Rebuilt:
    """After a killed writer in the same boot: add what it may not have indexed any more.

    The index is good as it is, since its entries follow the bytes; only the last frames may be
    missing. They lie in unsealed segments, or in ones sealed shortly before the last write.
    """
    segments = []
    for tier in tiers:
        written = {key: _written(tier, key) for key in tier.segment_ids()}
        recent = max(written.values(), default=0.0) - RECENT_SECONDS
        segments += [
            (tier, key) for key, when in written.items() if when >= recent or not has_footer(tier.path_of(key))
        ]
    return _adopt(index, segments, progress)


def recover(index: IndexWriter, tiers: Iterable[Tier], progress: Progress | None = None) -> Rebuilt:
    """Do what the index's `state` asks for, before any log is open.

    After a clean stop that is next to nothing: segments are checked for a footer.
    """
    if index.state == "doubtful":
        return rebuild(index, tiers, progress)
    if index.state == "killed":
        return adopt_recent(index, tiers, progress)
    return adopt_unsealed(index, tiers, progress)


def _written(tier: Tier, segment_id: int) -> float:
    try:
        return tier.path_of(segment_id).stat().st_mtime
    except OSError:
        return 0.0


def _adopt(index: IndexWriter, segments: list[tuple[Tier, int]], progress: Progress | None) -> Rebuilt:
    rebuilt = Rebuilt()
    batch: dict[bytes, bytes] = {}
    for done, (tier, segment_id) in enumerate(segments):
        table = _read(index, tier, segment_id, rebuilt)
        if table is not None:
            batch.update(_missing(index, table))
            rebuilt.blocks += len(table.entries)
        if len(batch) >= INDEX_BATCH_ENTRIES_MAX:
            index.put_blocks(sorted(batch.items()))
            batch.clear()
        if progress is not None:
            progress(done + 1, len(segments))
    index.put_blocks(sorted(batch.items()))
    return rebuilt


def _missing(index: IndexWriter, table: SegmentTable) -> dict[bytes, bytes]:
    """What the index does not hold yet of a segment: looking is ten times quicker than writing."""
    digests = [entry.digest for entry in table.entries]
    known = index.blocks(digests)
    return {
        digest: entry.location.pack()
        for digest, entry, location in zip(digests, table.entries, known, strict=True)
        if location != entry.location
    }


def _read(index: IndexWriter, tier: Tier, segment_id: int, rebuilt: Rebuilt) -> SegmentTable | None:
    """The frames of one segment; None when it is unusable, and then it is deleted or left alone."""
    path = str(tier.path_of(segment_id))
    try:
        table = read_table(tier.path_of(segment_id))
        if table.header.segment_id != segment_id:
            raise Damaged("its first page names another segment")
    except Damaged as error:
        rebuilt.damaged += 1
        _log.warning("a damaged segment is deleted", path=path, reason=str(error))
        _delete(index, tier, segment_id)
        return None
    except OSError as error:
        rebuilt.damaged += 1
        _log.warning("a segment cannot be read and is left alone", path=path, reason=str(error))
        return None
    rebuilt.segments += 1
    if not table.sealed:
        rebuilt.scanned += 1
        rebuilt.torn += table.torn
        _finish(index, tier, table)
    return table


def _finish(index: IndexWriter, tier: Tier, table: SegmentTable) -> None:
    """Seal a scanned segment; delete it when it holds nothing."""
    segment_id = table.header.segment_id
    if not table.entries:
        _delete(index, tier, segment_id)
        return
    try:
        seal_scanned(tier.path_of(segment_id), table)
    except (Damaged, OSError) as error:
        _log.warning("a segment could not be sealed", path=str(tier.path_of(segment_id)), reason=str(error))


def _delete(index: IndexWriter, tier: Tier, segment_id: int) -> None:
    index.drop_segment(segment_id)
    try:
        tier.unlink(segment_id)
    except Unavailable as error:
        _log.warning("a segment could not be deleted", path=str(tier.path_of(segment_id)), reason=str(error))
