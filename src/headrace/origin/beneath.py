"""Opening paths that cannot leave a folder: openat2(2) where the kernel has it, step by step where not.

Folders on the way are never symbolic links. A symbolic link in last place is followed only where it
ends at something inside the root (some tools keep a folder of links to one copy of each file).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

_OPENAT2 = 437
_NO_MAGIC_LINKS = 0x02
_NO_SYMLINKS = 0x04
_BENEATH = 0x08
_AT_FDCWD_FREE = 0
_LIBC = ctypes.CDLL(None, use_errno=True)
_HOW_BYTES = 24
_NOT_THERE = (errno.ENOSYS, errno.EPERM, errno.E2BIG)


def _openat2(root: int, path: bytes, flags: int, resolve: int) -> int:
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, _AT_FDCWD_FREE, resolve)
    descriptor: int = _LIBC.syscall(ctypes.c_long(_OPENAT2), ctypes.c_int(root), path, how, ctypes.c_size_t(_HOW_BYTES))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor


def _open_step_by_step(root: int, path: bytes, flags: int) -> int:
    """Open without following any link, one component at a time: for kernels before 5.6."""
    *folders, last = path.split(b"/")
    held = root
    try:
        for name in folders:
            step = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
            if held != root:
                os.close(held)
            held = step
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
    finally:
        if held != root:
            os.close(held)


def _kernel_has_openat2(root: int) -> bool:
    try:
        os.close(_openat2(root, b".", os.O_RDONLY | os.O_DIRECTORY, _BENEATH))
    except OSError as error:
        return error.errno not in _NOT_THERE
    return True


class Beneath:
    """Opens paths relative to a folder. All paths are bytes without `.`, `..`, and empty components."""

    def __init__(self, root: str) -> None:
        self.root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: Callable[[bytes, int], int] = self._by_openat2 if _kernel_has_openat2(self.root) else self._by_steps

    def file(self, path: bytes, flags: int = os.O_RDONLY) -> int:
        """A descriptor of the file. Raises OSError (ELOOP, EXDEV: a link leads elsewhere)."""
        return self._open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)

    def folder(self, path: bytes) -> int:
        """A descriptor of a folder ("" is the root itself), reached without any link. Raises OSError."""
        if not path:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.root)
        if self._open == self._by_openat2:
            return _openat2(self.root, path, os.O_RDONLY | os.O_DIRECTORY, _BENEATH | _NO_SYMLINKS)
        return _open_step_by_step(self.root, path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Close the root."""
        os.close(self.root)

    def _by_openat2(self, path: bytes, flags: int) -> int:
        try:
            return _openat2(self.root, path, flags, _BENEATH | _NO_SYMLINKS)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        os.close(self.folder(path.rpartition(b"/")[0]))
        return _openat2(self.root, path, flags, _BENEATH | _NO_MAGIC_LINKS)

    def _by_steps(self, path: bytes, flags: int) -> int:
        return _open_step_by_step(self.root, path, flags)
