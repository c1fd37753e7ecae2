"""The environment of other programs that steer through the service, which `make harnesses` makes."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".cache" / "harnesses" / "bin"
MISSING = "" if (PROGRAMS.parent / "requirements.txt").is_file() else "lm-eval, Inspect and others: `make harnesses`"
"""Why tests that need them are skipped; empty where they are installed."""


def run_program(name: str, *arguments: object, folder: Path, **environment: str) -> str:
    """What a program prints; it works in `folder`, which is also its home.

    Raises:
        AssertionError: It fails.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [PROGRAMS / name, *map(str, arguments)], cwd=folder, env={**kept, "HOME": str(folder), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
