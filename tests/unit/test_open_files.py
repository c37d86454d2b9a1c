"""Descriptors: bounded, shared, never closed while an answer uses them."""

import os
from pathlib import Path

import pytest

from headrace.base.errors import Busy, Unavailable
from headrace.base.limits import CHANGING_PIECE_BYTES, CHANGING_TAIL_BYTES
from headrace.gateway.files import ChangingPieces, FilePieces, OpenFiles
from headrace.model.objects import Extent
from headrace.origin.folder_files import token_of


def _files(folder: Path, count: int) -> list[Extent]:
    extents = []
    for number in range(count):
        path = folder / str(number)
        path.write_bytes(bytes([number]) * 10)
        extents.append(Extent(str(path), 0, 10))
    return extents


def _unlink(extents: list[Extent]) -> None:
    for extent in extents:
        Path(extent.path).unlink()


async def _read(pieces: FilePieces) -> bytes:
    return b"".join([os.pread(piece.descriptor, piece.length, piece.offset) async for piece in pieces])


def test_least_recently_used_goes_first_and_none_in_use(tmp_path: Path) -> None:
    extents = _files(tmp_path, 4)
    files = OpenFiles(files_max=2)
    first = files.hold(extents[0].path)
    second = files.hold(extents[1].path)
    with pytest.raises(Busy):
        files.hold(extents[2].path)
    files.release(second)
    third = files.hold(extents[2].path)
    assert os.pread(first.descriptor, 1, 0) == b"\0"
    assert os.pread(third.descriptor, 1, 0) == b"\2"
    assert len(files) == 2
    files.release(first)
    files.release(third)
    assert files.hold(extents[0].path) is first
    files.release(first)
    files.close()
    assert len(files) == 0


def test_a_new_token_opens_the_file_anew(tmp_path: Path) -> None:
    (extent,) = _files(tmp_path, 1)
    files = OpenFiles()
    old = files.hold(extent.path, "1")
    replacement = tmp_path / "new"
    replacement.write_bytes(b"new")
    replacement.rename(extent.path)
    new = files.hold(extent.path, "2")
    assert os.pread(new.descriptor, 3, 0) == b"new"
    assert os.pread(old.descriptor, 1, 0) == b"\0"
    files.release(old)
    files.release(new)
    assert files.forget_unlinked() == 1
    files.close()


def _token(path: str) -> str:
    return token_of(Path(path).stat())


def test_a_file_that_others_change_is_held_only_as_it_was_looked_up(tmp_path: Path) -> None:
    (extent,) = _files(tmp_path, 1)
    files = OpenFiles()
    old = _token(extent.path)
    files.release(files.hold(extent.path, old, changing=True))
    Path(extent.path).write_bytes(b"other")
    with pytest.raises(FileNotFoundError):
        files.hold(extent.path, old, changing=True)
    assert len(files) == 0
    with pytest.raises(FileNotFoundError):
        files.hold(extent.path, old, changing=True)
    held = files.hold(extent.path, _token(extent.path), changing=True)
    assert os.pread(held.descriptor, 9, 0) == b"other"
    for number, take in enumerate((lambda path: path.symlink_to("/etc/passwd"), os.mkfifo)):
        path = tmp_path / f"swapped{number}"
        path.write_bytes(b"x")
        token = _token(str(path))
        path.unlink()
        take(path)
        with pytest.raises(FileNotFoundError):
            files.hold(str(path), token, changing=True)
    files.release(held)
    assert len(files) == 1


@pytest.mark.parametrize("size", [10, CHANGING_TAIL_BYTES + 10, CHANGING_PIECE_BYTES + CHANGING_TAIL_BYTES + 10])
async def test_a_file_changed_while_it_is_sent_ends_in_an_error(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * size)
    files = OpenFiles()

    def pieces() -> ChangingPieces:
        return ChangingPieces(files, Extent(str(path), 0, size), _token(str(path)))

    whole = b"".join(
        [
            piece if isinstance(piece, bytes) else os.pread(piece[0], piece.length, piece.offset)
            async for piece in pieces()
        ]
    )
    assert whole == b"a" * size
    changing = pieces()
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            with path.open("r+b") as file:
                file.write(b"b")
            os.utime(path, ns=(sent, sent + 1))  # whatever the clock's tick is
            piece = await anext(changing)
            sent += len(piece) if isinstance(piece, bytes) else piece.length

    with pytest.raises(Unavailable):
        await send()
    assert sent < size
    await changing.aclose()
    path.unlink()
    assert files.forget_unlinked() == 1


async def test_a_file_that_loses_its_name_while_it_is_sent_is_sent_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 10)
    pieces = ChangingPieces(OpenFiles(), Extent(str(path), 2, 8), _token(str(path)))
    path.unlink()
    assert [piece async for piece in pieces] == [b"a" * 8]


def test_a_missing_file_leaves_nothing_behind(tmp_path: Path) -> None:
    extents = _files(tmp_path, 1)
    files = OpenFiles(files_max=2)
    with pytest.raises(FileNotFoundError):
        FilePieces(files, [*extents, Extent(str(tmp_path / "gone"), 0, 1)])
    for number in range(3):
        path = tmp_path / f"other{number}"
        path.write_bytes(b"x")
        files.release(files.hold(str(path)))
    assert len(files) == 2
    files.close()


async def test_an_answer_outlives_deletion(tmp_path: Path) -> None:
    extents = _files(tmp_path, 3)
    files = OpenFiles()
    pieces = FilePieces(files, extents)
    _unlink(extents)
    assert await _read(pieces) == b"\0" * 10 + b"\1" * 10 + b"\2" * 10
    assert files.forget_unlinked() == 3


async def test_files_that_do_not_fit_are_opened_in_turn(tmp_path: Path) -> None:
    extents = _files(tmp_path, 5)
    files = OpenFiles(files_max=2)
    assert await _read(FilePieces(files, extents)) == b"".join(bytes([number]) * 10 for number in range(5))
    files.close()


async def test_ending_early_releases(tmp_path: Path) -> None:
    extents = _files(tmp_path, 2)
    files = OpenFiles(files_max=2)
    started = FilePieces(files, extents)
    await anext(started)
    await started.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(started)
    dropped = FilePieces(files, extents)
    assert len(dropped.descriptors) == 2
    del dropped
    other = tmp_path / "other"
    other.write_bytes(b"x")
    files.release(files.hold(str(other)))
    files.close()
