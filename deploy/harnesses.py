"""Install the programs of docs/howto-other-programs.md into an environment of their own, `.cache/harnesses`.

    make harnesses        (the same as: .venv/bin/python deploy/harnesses.py)

Standard library and pip only. The pinned environment is not touched: these programs want other versions of what it holds.
Without a network the exit code is 0 all the same: the tests that need them are skipped and say why.
"""

import shutil
import subprocess
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "deploy" / "requirements-harnesses.txt"
FOLDER = ROOT / ".cache" / "harnesses"
STAMP = "requirements.txt"
"""A copy of the pins in the folder: what it was made from."""


def main() -> None:
    """Make the environment, unless it holds these versions already."""
    folder = FOLDER.resolve()
    if up_to_date(folder):
        return
    print(f"other programs: installing them into {FOLDER.relative_to(ROOT)} (1.4 GB) ...", flush=True)
    began = time.monotonic()
    if problem := install(folder):
        print(f"other programs: not installed, so that their tests are skipped: {problem}", flush=True)
    else:
        print(f"other programs: installed in {time.monotonic() - began:.0f} s", flush=True)


def up_to_date(folder: Path) -> bool:
    """True if the environment was made from the pins as they are."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_bytes() == REQUIREMENTS.read_bytes()


def install(folder: Path) -> str:
    """Make the environment anew; returns what went wrong, which leaves no folder, or an empty text."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "install",
        "--no-deps",
    ]
    done = subprocess.run([*pip, "-r", str(REQUIREMENTS)], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return "; ".join(errors[-2:]) or f"pip ended with exit code {done.returncode}"
    shutil.copyfile(REQUIREMENTS, folder / STAMP)
    return ""


if __name__ == "__main__":
    main()
