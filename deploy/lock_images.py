"""Write the pins of what this machine does not install: the CUDA set-up and the router's image.

    make lock        (the same as: .venv/bin/python deploy/lock.py, then deploy/lock_images.py)

uv resolves for the platform named, from the packages' metadata alone. Nothing is installed, so the CUDA pins are a
consistent set that no GPU has run.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".cache" / "deploy-tools"
PLATFORM = "x86_64-manylinux_2_31"
CUDA_EXTRAS = ("service-cuda", "extraction", "dashboard")

CUDA_HEADER = """\
# The service and extraction on NVIDIA GPUs (Python 3.12, Linux x86-64). Written by `make lock`: edit pyproject.toml instead.
# UNTESTED: a consistent set, resolved without a GPU; nothing of it has run.
# Install with `pip install --no-deps -r deploy/requirements-cuda.txt`, then `pip install --no-deps -e .`
"""
ROUTER_HEADER = """\
# vllm-router alone (Python 3.11, Linux x86-64), for its image. Written by `make lock`.
# Install with `pip install --no-deps -r deploy/requirements-router.txt`.
"""


def main() -> None:
    """Resolve and write both."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in CUDA_EXTRAS for line in extras[extra]), "hatchling>=1.27"]
    _write("requirements-cuda.txt", CUDA_HEADER, wanted, "3.12")
    router = [line for line in extras["dev"] if line.startswith("vllm-router")]
    _write("requirements-router.txt", ROUTER_HEADER, router, "3.11")


def _write(name: str, header: str, wanted: list[str], python: str) -> None:
    command = [
        str(TOOLS / "bin" / "uv"),
        "pip",
        "compile",
        "-",
        "--python-version",
        python,
        "--python-platform",
        PLATFORM,
    ]
    command += ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]
    done = subprocess.run(command, input="\n".join(wanted), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} cannot be resolved:\n{done.stderr}")
    (ROOT / "deploy" / name).write_text(header + done.stdout, encoding="utf-8")
    print(f"deploy/{name}: {len(done.stdout.splitlines())} packages")


if __name__ == "__main__":
    main()
