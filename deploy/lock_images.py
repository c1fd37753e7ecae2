"""Write the pins of what this machine does not install: the CUDA set-ups and the router's image.

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
CUDA_PINS = {"requirements-cuda.txt": "0.32", "requirements-cuda-0.33.txt": "0.33"}
"""File -> its vLLM. The first is the one to take: its Python is the CPU build's, which the tests run."""

CUDA_HEADER = """\
# The service and extraction with vLLM {vllm} on NVIDIA GPUs (Python 3.12, Linux x86-64). Written by `make lock`: edit
# pyproject.toml instead.
# UNTESTED: a consistent set, resolved without a GPU; nothing of it has run.
# Install with `pip install --no-deps -r deploy/{name}`, then `pip install --no-deps -e .`
"""
ROUTER_HEADER = """\
# vllm-router alone (Python 3.11, Linux x86-64), for its image. Written by `make lock`.
# Install with `pip install --no-deps -r deploy/requirements-router.txt`.
"""


def main() -> None:
    """Resolve and write all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in CUDA_EXTRAS for line in extras[extra]), "hatchling>=1.27"]
    for name, vllm in CUDA_PINS.items():
        _write(name, CUDA_HEADER.format(name=name, vllm=vllm), [*wanted, f"vllm=={vllm}.*"], "3.12")
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
