"""Folders of the service."""

import os
from pathlib import Path


def trait_home() -> Path:
    """Folder of everything the service keeps: `$TRAIT_HOME`, else `~/.cache/trait-steering`."""
    home = os.environ.get("TRAIT_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "trait-steering"
