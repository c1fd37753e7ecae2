"""Where pandas and polars are found, which the package does not bring, and Python with them."""

import os
import subprocess
import sys
from pathlib import Path

from other_programs import PROGRAMS

PLACES = [
    *filter(None, os.environ.get("TRAIT_TEST_FRAMES", "").split(os.pathsep)),
    *map(str, (PROGRAMS.parent / "lib").glob("python3*/site-packages")),
]
"""Folders searched after this environment: TRAIT_TEST_FRAMES, and the environment of `make harnesses`, which has pandas."""

_AFTER = f"import sys; sys.path += {PLACES!r}"


def has(library: str) -> bool:
    """Return whether `python_with_frames` can import a library."""
    done = subprocess.run([sys.executable, "-c", f"{_AFTER}\nimport {library}"], capture_output=True, check=False)
    return done.returncode == 0


def python_with_frames(code: str, *arguments: object, folder: Path, **environment: str) -> str:
    """What Python code prints; the libraries of PLACES can be imported, and ours take precedence.

    Raises:
        AssertionError: It fails.
    """
    command = [sys.executable, "-c", f"{_AFTER}\n{code}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
