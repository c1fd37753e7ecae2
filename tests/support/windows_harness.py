"""Python as it is without the modules that only Unix has: our packages cannot import them.

The standard library and other packages keep them, since their own code for Unix runs here.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trait_core", "trait_client", "trait_extraction", "trait_steering")

SITE = '''
import builtins, ctypes, errno, os, types

UNIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
libc = ctypes.CDLL(None, use_errno=True)


def locking(handle, mode, count):
    """A lock of the whole file in place of one of `count` bytes from the position on; never waits."""
    assert (mode, count, os.lseek(handle, 0, os.SEEK_CUR)) == (2, 1, 0)
    if libc.flock(handle, 2 | 4) != 0:
        raise PermissionError(errno.EACCES, "Permission denied")


windows = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
real = builtins.__import__


def imported(name, variables=None, *rest, **named):
    importer = (variables or {}).get("__name__", "")
    if importer.startswith("trait_"):
        if name.partition(".")[0] in UNIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name == "msvcrt" and os.environ.get("WITH_MSVCRT") == "1":
            return windows
    return real(name, variables, *rest, **named)


builtins.__import__ = imported
'''


def run_without_unix(folder: Path, program: str, *arguments: str, msvcrt: bool = True) -> tuple[int, str, str]:
    """`(exit code, stdout, stderr)` of a Python program in `folder`; its child processes have the same Python.

    Args:
        folder: Working directory.
        program: Source text.
        arguments: Its arguments.
        msvcrt: Have Windows' module for locks, as far as `trait_core.locks` uses it.
    """
    site = folder / ".site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "WITH_MSVCRT": str(int(msvcrt))}
    # Latin-1 reads every output byte for byte, whatever encoding a test gives the program.
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, encoding="latin-1", check=False, cwd=folder, env=environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
