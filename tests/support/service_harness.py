"""A real service in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from trait_client.http.local_service import free_port

BIN = Path(sys.executable).parent
START_LIMIT_S = 600


@contextmanager
def serving(model: Path, folder: Path, *flags: str) -> Iterator[str]:
    """The URL of `trait-service serve MODEL` under the name `smollm2`, eager; its log and registry are in `folder`."""
    service = RunningService(model, folder, *flags)
    try:
        service.wait_until_ready()
        yield service.url
    finally:
        service.stop()


def metric_values(page: str, name: str) -> list[float]:
    """A metric's value for each of its labels, from the text of `/metrics`."""
    return [float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE)]


class RunningService:
    """`trait-service serve` and its engine in a process group of their own, on one core where `core` is given."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        *flags: str,
        port: int | None = None,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "service.log"
        command = ["taskset", "-c", str(core)] if core is not None else []
        command += [BIN / "trait-service", "serve", str(model), "--served-model-name", "smollm2", "--enforce-eager"]
        command += ["--port", str(self.port), "--vectors", str(folder / "registry"), *flags]
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def wait_until_ready(self) -> None:
        _wait_until_ready(self.process, self.url, self.log)

    def kill(self) -> None:
        """At once, the engine too: nothing is said to anyone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def stop(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


def _wait_until_ready(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/v1/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"the service did not start:\n{log.read_text()[-6000:]}")
