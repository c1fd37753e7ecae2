"""Finds the other programs of an installation: `trait-service`, `trait-extract`."""

import shutil
import sys
from pathlib import Path


def find_program(name: str) -> str | None:
    """The path of a console script: beside this Python first, then on the PATH; None if it is not installed."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
