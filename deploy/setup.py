"""Make the virtual environment that `make demo` and `make test` run in.

    python3.11 deploy/setup.py --venv .venv

Standard library only: it runs before anything is installed. Four steps, each with a stamp in the environment that holds
a digest of what the step was made from; a step whose digest is unchanged is passed over.
"""

import argparse
import fcntl
import hashlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "deploy" / "requirements-cpu.txt"
PYPROJECT = ROOT / "pyproject.toml"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST_PYTHON = (3, 11)
IMPORTS = "import torch, vllm; from transformers import LlamaConfig; import trait_core, trait_client, trait_service, trait_extraction"


class SetupError(Exception):
    """A step failed; the message says what to do."""


def main() -> None:
    """Run the steps; exit 1 with one message if a step fails."""
    parser = argparse.ArgumentParser(description="Make the virtual environment of trait-steering.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the virtual environment")
    folder = parser.parse_args().venv.expanduser().resolve()
    try:
        set_up(folder)
    except SetupError as error:
        sys.exit(f"set-up failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def set_up(folder: Path) -> None:
    """Bring the virtual environment at `folder` up to date with the requirements and this checkout."""
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(f"Python {sys.version.split()[0]} is too old; 3.11 or later is needed (make PYTHON=...)")
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".setup.lock"):
        requirements = REQUIREMENTS.read_text(encoding="utf-8")
        torch = next(line for line in requirements.splitlines() if line.startswith("torch=="))
        steps: list[tuple[str, str, Callable[[], None]]] = [
            ("virtual environment", "", lambda: _create(folder)),
            (torch, torch, lambda: _install_torch(folder, torch)),
            ("pinned packages", requirements, lambda: _install_packages(folder)),
            ("this project", PYPROJECT.read_text(encoding="utf-8") + str(ROOT), lambda: _install_project(folder)),
        ]
        changed = False
        for number, (name, content, action) in enumerate(steps, start=1):
            changed |= _step(folder, number, len(steps), name, content, action)
        if changed:
            _check(folder)
            _say(f"set up in {time.monotonic() - started:.0f} s: {folder}")


def _step(folder: Path, number: int, total: int, name: str, content: str, action: Callable[[], None]) -> bool:
    stamp = folder / f".setup-{number}"
    digest = hashlib.sha256(content.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest and _python(folder).exists():
        _say(f"[{number}/{total}] {name} ... already there")
        return False
    _say(f"[{number}/{total}] {name} ...")
    stamp.unlink(missing_ok=True)
    action()
    stamp.write_text(digest, encoding="utf-8")
    return True


def _create(folder: Path) -> None:
    # A folder that holds something else is not ours to fill.
    ours = {".setup.lock", ".setup-1", "pyvenv.cfg", "bin", "include", "lib", "lib64", "share"}
    foreign = sorted({entry.name for entry in folder.iterdir()} - ours)
    if foreign and not (folder / "pyvenv.cfg").exists():
        raise SetupError(f"{folder} holds other files ({foreign[0]}, ...); name an empty folder with VENV=")
    for stamp in folder.glob(".setup-*"):
        stamp.unlink()
    try:
        venv.create(folder, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        raise SetupError(
            f"{sys.executable} cannot make a virtual environment with pip ({error}). On Debian and Ubuntu install "
            "`python3-venv`, or name another interpreter: make PYTHON=python3.12",
        ) from error


def _install_torch(folder: Path, pin: str) -> None:
    """Install the CPU build from pip's own indexes, else from PyTorch's."""
    install = ["install", "--no-deps", pin]
    if _pip(folder, install, may_fail=True):
        return
    _say(f"      not in pip's indexes; taking it from {TORCH_CPU_INDEX}")
    _pip(folder, [*install, "--index-url", TORCH_CPU_INDEX])


def _install_packages(folder: Path) -> None:
    _pip(folder, ["install", "--no-deps", "-r", str(REQUIREMENTS)])


def _install_project(folder: Path) -> None:
    _pip(folder, ["install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])


def _check(folder: Path) -> None:
    _say("      checking the imports")
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [_python(folder), "-c", IMPORTS], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    if done.returncode:
        # The steps run again next time: what is installed does not work.
        (folder / ".setup-4").unlink(missing_ok=True)
        raise SetupError(
            f"the installed packages do not import:\n{done.stderr[-1500:]}\n"
            "Torchvision, torchaudio, torchcodec or triton in this environment break it: `make clean` and start again.",
        )


def _pip(folder: Path, arguments: list[str], *, may_fail: bool = False) -> bool:
    """Run pip, one short line for every 20 packages; the whole output is kept in `setup.log`."""
    log = folder / "setup.log"
    command = [str(_python(folder)), "-m", "pip", "--disable-pip-version-check", *arguments, "--progress-bar", "off"]
    found = 0
    with (
        log.open("a", encoding="utf-8") as kept,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        kept.write(f"\n$ {' '.join(command)}\n")
        for line in process.stdout or ():
            kept.write(line)
            if line.startswith(("Collecting ", "Processing ")):
                found += 1
                if found % 20 == 0:
                    _say(f"      {found} packages found")
            elif line.startswith("Installing collected packages"):
                _say("      installing")
    if process.returncode == 0:
        return True
    if may_fail:
        return False
    errors = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("ERROR")]
    raise SetupError(f"pip could not install ({'; '.join(errors[-2:]) or 'no reason given'}). Its output: {log}")


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Make two concurrent `make` runs take turns."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
