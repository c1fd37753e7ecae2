"""A disk of one megabyte of a test's own, to be filled or made read-only; for root in a machine that lets it mount."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """The folder, as a disk of its own; skips the test where nothing can be mounted."""
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def make_read_only(disk: Path) -> None:
    """Let nothing be written on a small disk any more."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
