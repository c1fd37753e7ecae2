"""A real service in a process of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

BIN = Path(sys.executable).parent
START_LIMIT_S = 600


@contextmanager
def serving(model: Path, folder: Path, *flags: str) -> Iterator[str]:
    """The URL of `trait-service serve MODEL` under the name `smollm2`, eager; its log and registry stand in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [BIN / "trait-service", "serve", str(model), "--served-model-name", "smollm2", "--enforce-eager"]
    command += ["--port", str(port), "--vectors", str(folder / "registry"), *flags]
    log = folder / "service.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


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
