"""A service that the client starts and stops: `trait-service serve` in a separate process.

Run as a module (`python -m trait_client.http.local_service COMMAND...`) this file runs a command until standard input ends. It
sits between client and service, so that the service stops with the client, even if the client is killed.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

from trait_client.http import AsyncTraitClient, TraitClient
from trait_core.errors import ServiceError
from trait_core.programs import find_program

START_SECONDS = 3600.0
"""Reading the weights of a large model takes minutes, and compilation follows."""

STOP_SECONDS = 60.0
LOG_TAIL = 1500


@contextlib.asynccontextmanager
async def started_service(arguments: Sequence[str], log: Path) -> AsyncIterator[AsyncTraitClient]:
    """Start `trait-service serve`, wait until it takes requests, and stop it at the end.

    Args:
        arguments: Arguments of `serve`: the model and its options; a free port is added.
        log: File for the service's output.

    Raises:
        ServiceError: `trait-service` is not installed, or it ended before it was ready; the message has the log's end.
    """
    port = free_port()
    command = _command(arguments, port)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        async with AsyncTraitClient(f"http://127.0.0.1:{port}") as client:
            await _wait_until_ready(client, process, arguments[0], log)
            yield client
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


async def _wait_until_ready(
    client: AsyncTraitClient, process: asyncio.subprocess.Process, model: str, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with AsyncTraitClient(client.base_url, timeout=5, retries=0) as probe:
        while process.returncode is None and time.monotonic() < deadline:
            with contextlib.suppress(ServiceError):
                if await probe.ready():
                    return
            await asyncio.sleep(0.5)
    raise await asyncio.to_thread(_not_ready, model, process.returncode, log)


@contextlib.contextmanager
def running_service(
    arguments: Sequence[str], log: Path, *, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """As `started_service`, without an event loop: the address of the running service.

    Args:
        arguments: Words after `serve`: the model and its options, without the port.
        log: File for the output of the service.
        port: None takes a free one.
        environment: Environment of the service; None takes this process's.

    Raises:
        ServiceError: There is no `trait-service`, or it ended before it was ready; the message has the log's end.
    """
    port = port or free_port()
    command = _command(arguments, port)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own service
            command,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        with TraitClient(url, timeout=5, retries=0) as probe:
            while not _is_ready(probe):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise _not_ready(arguments[0], process.returncode, log)
                time.sleep(0.5)
        yield url
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def free_port() -> int:
    """Find a port of this machine's loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(probe: TraitClient) -> bool:
    with contextlib.suppress(ServiceError):
        return probe.ready()
    return False


def _not_ready(model: str, code: int | None, log: Path) -> ServiceError:
    state = "is still not ready" if code is None else f"ended with code {code}"
    tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
    return ServiceError(f"trait-service serve {model} {state}; {log} ends: {tail}")


def _command(arguments: Sequence[str], port: int) -> list[str]:
    return [sys.executable, "-m", __name__, _trait_service(), "serve", *arguments, "--port", str(port)]


def _trait_service() -> str:
    found = find_program("trait-service")
    if found is None:
        raise ServiceError(
            "trait-service is not installed in this environment: pip install 'trait-steering[service-cpu]', or set url"
        )
    return found


def _run_until_input_ends(command: Sequence[str]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - our own service
    over = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):  # sys.stdin's lock would be held at the interpreter's end
            pass
        process.terminate()
        if not over.wait(STOP_SECONDS):
            process.kill()

    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    over.set()
    return code


if __name__ == "__main__":
    sys.exit(_run_until_input_ends(sys.argv[1:]))
