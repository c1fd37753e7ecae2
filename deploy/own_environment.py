"""Install programs that want other packages than ours into an environment of their own, `.cache/NAME`.

    make harnesses        the programs of docs/howto-other-programs.md
    make docs-site        what builds the documentation's site

Standard library and pip only. The pinned environment is not touched. Without a network the exit code is 0 all the same: what needs the
programs is skipped, and says why.
"""

import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "requirements.txt"
"""A copy of the pins in the folder: what it was made from."""


def main(name: str) -> None:
    """Make the environment `.cache/NAME` from `deploy/requirements-NAME.txt`, unless it holds these versions already."""
    folder, pins = (ROOT / ".cache" / name).resolve(), ROOT / "deploy" / f"requirements-{name}.txt"
    stamp = folder / STAMP
    if stamp.is_file() and stamp.read_bytes() == pins.read_bytes():
        return
    print(f"{name}: installing into .cache/{name} ...", flush=True)
    began = time.monotonic()
    if problem := install(folder, pins):
        print(f"{name}: not installed, so that what needs it is skipped: {problem}", flush=True)
    else:
        print(f"{name}: installed in {time.monotonic() - began:.0f} s", flush=True)


def install(folder: Path, pins: Path) -> str:
    """Make the environment anew; returns what went wrong, which leaves no folder, or an empty text."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*pip, "install", "--no-deps", "-r", str(pins)], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return "; ".join(errors[-2:]) or f"pip ended with exit code {done.returncode}"
    shutil.copyfile(pins, folder / STAMP)
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
