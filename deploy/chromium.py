"""Get the Chromium that the dashboard's tests need, if this machine allows it.

    python3 deploy/chromium.py              # find one, else install Debian's with apt-get
    python3 deploy/chromium.py --find       # print the path of one that runs, or say what to install and exit 1

Standard library only. TRAIT_TEST_CHROMIUM names a browser, or is `none`: then there is no search and no installation.
Where none can be had this ends well (exit code 0): the tests that need one are skipped and say what to install.
"""

import argparse
import os
import shutil
import subprocess
import sys

VARIABLE = "TRAIT_TEST_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"
HINT = f"install a Chromium (Debian: apt-get install {PACKAGE}) or name one with {VARIABLE}=/path/to/chromium"
APT = ("-q", "-y", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20")
APT_LIMIT_S = 600


def main() -> int:
    """Find or install; returns the exit code."""
    parser = argparse.ArgumentParser(description="Get the Chromium that the dashboard's tests need.")
    parser.add_argument("--find", action="store_true", help="print the path of one that runs; install nothing")
    only_find = parser.parse_args().find
    path = find()
    if only_find:
        print(path or missing(), file=sys.stdout if path else sys.stderr)
        return 0 if path else 1
    if path is None and os.environ.get(VARIABLE) is None:
        path = install()
    print(f"browser for the dashboard's tests: {path or missing()}", flush=True)
    return 0


def missing() -> str:
    """No Chromium could be had; the message says why and what to do."""
    named = os.environ.get(VARIABLE)
    if named == "none":
        return f"none, as {VARIABLE}=none asks"
    return f"none that runs{f' ({VARIABLE}={named})' if named else ''}: {HINT}"


def find() -> str | None:
    """The path of a Chromium that runs."""
    named = os.environ.get(VARIABLE)
    candidates = [named] if named else [shutil.which(name) for name in NAMES]
    return next((path for path in candidates if path and path != "none" and runs(path)), None)


def runs(path: str) -> bool:
    """Check that it starts: Ubuntu's `chromium-browser` may be a script that asks for a snap."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install() -> str | None:
    """Install Debian's, as root or with sudo without a password."""
    apt, root = shutil.which("apt-get"), as_root()
    if apt is None or root is None:
        return None
    print(f"no Chromium is there: apt-get install {PACKAGE} ... ({VARIABLE}=none leaves it out)", flush=True)
    command = [*root, "env", "DEBIAN_FRONTEND=noninteractive", apt]
    packages = [*command, *APT, "install", "--no-install-recommends", PACKAGE]
    if not quietly(packages) and quietly([*command, *APT, "update"]):
        quietly(packages)
    return find()


def as_root() -> list[str] | None:
    """Prefix of a command that only root may run."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    return [sudo, "-n"] if sudo and quietly([sudo, "-n", "true"]) else None


def quietly(command: list[str]) -> bool:
    """Run it to its end without a prompt; returns True on success."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=APT_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
