"""Locks between processes on a file: `flock` on Linux and macOS, `msvcrt.locking` on Windows."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trait_core.errors import TraitError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None  # type: ignore[assignment]

_WAIT_SECONDS = 0.05
"""Between two attempts on Windows, whose own waiting gives up after ten seconds."""


class UnsupportedPlatformError(TraitError):
    """This platform lacks what a command needs."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, mode: int = 0o666) -> Iterator[None]:
    """Hold an exclusive lock on a file; the lock is released if the process dies.

    Args:
        path: Created if it does not exist, and never removed.
        wait: Wait for the process that holds the lock.
        mode: Permissions of a created file, before the umask.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is false.
        OSError: The file cannot be opened.
        UnsupportedPlatformError: This Python has neither `fcntl` nor `msvcrt`.
    """
    take = _taker()
    handle = os.open(path, os.O_CREAT | os.O_RDWR, mode)
    try:
        take(handle, wait)
        yield
    finally:
        os.close(handle)  # releases the lock


def _taker() -> Callable[[int, bool], None]:
    if fcntl is not None:
        return _flock
    if msvcrt is not None:
        return _lock_first_byte
    raise UnsupportedPlatformError(
        "this Python has neither fcntl nor msvcrt, so that two commands could write to one folder at the same time: "
        "use CPython on Linux, macOS or Windows"
    )


def _flock(handle: int, wait: bool) -> None:
    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _lock_first_byte(handle: int, wait: bool) -> None:
    """Lock the first byte, which need not exist. Not yet run on Windows."""
    while True:
        os.lseek(handle, 0, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError as error:
            if not wait:
                raise BlockingIOError(error.errno, "another process holds the lock") from error
            time.sleep(_WAIT_SECONDS)
        else:
            return
