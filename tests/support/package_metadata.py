"""Packages that are installed as far as their metadata go."""

from pathlib import Path


def distribution(folder: Path, name: str, version: str, entry_points: str = "") -> Path:
    """Write a package's metadata into a folder, which is then put on the path.

    Args:
        folder: Where to; returned.
        name: The package's.
        version: The package's.
        entry_points: Text of its `entry_points.txt`.
    """
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder
