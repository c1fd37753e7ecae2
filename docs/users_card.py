"""The user's card, timed: from a wheel in a fresh environment to a steered reply, without the checkout.

Everything is done in build/card, with an empty home and in an empty folder: no model, no vector and no trait is found there.
"""

import os
import shutil
import subprocess
import sys
import time

from strangers_path import ROOT, step
from trait_client.http.local_service import free_port

BASE = ROOT / "build" / "card"
ENVIRONMENT = BASE / "venv"
SERVE = ("trait-service", "serve", "smollm2", "--enforce-eager")
CARD = ("trait-extract run --trait sycophancy", "trait-client steer --trait sycophancy --coef 3")


def main() -> None:
    """Run all steps; stop at the first failure."""
    began = time.monotonic()
    shutil.rmtree(BASE, ignore_errors=True)
    home, folder = BASE / "home", BASE / "empty"
    for each in (home, folder):
        each.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRAIT_", "PYTHON", "XDG_"))}
    environment = {**kept, "HOME": str(home), "PATH": f"{ENVIRONMENT / 'bin'}:{kept['PATH']}"}
    install(environment)
    url = f"http://127.0.0.1:{free_port()}"
    with (BASE / "service.log").open("w") as log:
        service = subprocess.Popen(
            [ENVIRONMENT / "bin" / SERVE[0], *SERVE[1:], "--port", url.rpartition(":")[2]],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            ready = f"until curl -sf -o /dev/null {url}/v1/health/ready; do kill -0 {service.pid}; sleep 0.5; done"
            step(" ".join(SERVE), ["timeout", "900", "bash", "-ec", ready], folder, environment)
            for command in CARD:
                step(command, command.split(), folder, {**environment, "TRAIT_SERVICE_URL": url})
        finally:
            service.terminate()
            service.wait(60)
    print(f"{time.monotonic() - began:7.1f} s  all of it")


def install(environment: dict[str, str]) -> None:
    """The wheel and the pinned packages of a CPU, in an environment of their own."""
    python = str(ENVIRONMENT / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q"]
    pins = str(ROOT / "deploy" / "requirements-cpu.txt")
    step("python -m venv", [sys.executable, "-m", "venv", str(ENVIRONMENT)], BASE, environment)
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(BASE / "dist"), str(ROOT)]
    step("pip wheel", build, BASE, environment)
    step("pip install of the pinned packages", [*pip, "install", "--no-deps", "-r", pins], BASE, environment)
    wheel = next((BASE / "dist").glob("trait_steering-*.whl"))
    step("pip install of the wheel", [*pip, "install", "--no-deps", str(wheel)], BASE, environment)


if __name__ == "__main__":
    main()
