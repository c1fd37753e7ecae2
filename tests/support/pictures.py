"""The pictures of the dashboard in README.md and docs/, and what they are made from."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTE = ROOT / "docs" / "pictures.json"

PICTURES = {
    "dashboard-sweep": (True, "sweep?trait=refusal", ".best a"),
    "dashboard-dynamics": (False, "dynamics", None),
}
"""Name -> of the demo's results, or made up; the view's address; and a link to follow in it."""

INPUTS = ("client/trait_client/dashboard", "experiments/demo/experiment.toml", "tests/support/dashboard_fixtures.py")
"""Files and folders that change what the pictures show."""


def inputs_digest() -> str:
    """sha256 of all inputs, and of the list of pictures."""
    paths = [
        path for name in INPUTS for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
    ]
    files = sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{path.relative_to(ROOT)} {sha256(path.read_bytes())}" for path in files]
    return sha256("\n".join([repr(PICTURES), *lines]).encode())


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()
