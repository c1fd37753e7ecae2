"""A reader who works through a page of the documentation, and the command lines that read what he does not run."""

import shlex
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import typer
from fenced_blocks import ROOT, Block
from frame_libraries import python_with_frames
from other_programs import PROGRAMS
from trait_client.http.local_service import free_port
from trait_client.results import ResultStore
from typer import BadParameter

DOCUMENTED_URL = "http://127.0.0.1:8000"
DOCUMENTED_DASHBOARD_PORT = "8600"
COMMAND_LIMIT_S = 600
SERVES_LIMIT_S = 60


@dataclass
class PageReader:
    """Works through a page: one folder, one shell environment and one Python namespace, as a reader has them.

    Args:
        folder: Holds what a checkout holds.
        service_url: Takes the place of the address in the documents.
        environment: Environment variables of every command.
    """

    folder: Path
    service_url: str
    environment: dict[str, str]
    names: dict[str, Any] = field(default_factory=dict)

    def run(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: A command of it fails.
        """
        text = block.text.replace(DOCUMENTED_URL, self.service_url)
        if block.excuse == "serves":
            self._serve(text, block.where)
        elif block.language == "bash":
            programs = f"export PATH={shlex.quote(str(PROGRAMS))}:$PATH\n" if block.foreign else ""
            self._shell(programs + text, block.where)
        elif block.excuse == "needs" and block.reason == "pandas":
            python_with_frames(text, folder=self.folder, **self.environment)
        elif block.foreign:
            # Of its own packages: a program, which shares no names with the page's other blocks.
            self._child([str(PROGRAMS / "python"), "-c", text], block.where)
        elif block.language == "python":
            # Line numbers of the page, so that a traceback leads there.
            exec(compile("\n" * (block.line - 1) + text, str(ROOT / block.page), "exec"), self.names)
        else:
            ResultStore(self.folder / "demo" / "results.duckdb").query(text)

    def _shell(self, text: str, where: str) -> None:
        state = self.folder.parent / f"{self.folder.name}.environment"
        resume = f"source {shlex.quote(str(state))}\n" if state.exists() else ""
        script = f"set -eo pipefail\n{resume}{text}\ndeclare -px > {shlex.quote(str(state))}\n"
        self._child(["bash", "-c", script], where)

    def _child(self, command: list[str], where: str) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=COMMAND_LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{where}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )

    def _serve(self, text: str, where: str) -> None:
        port = str(free_port())
        command = text.replace(DOCUMENTED_DASHBOARD_PORT, port)
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            assert _answers(process, f"http://127.0.0.1:{port}/"), f"{where}: nothing answers"
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def _answers(process: subprocess.Popen, url: str) -> bool:
    deadline = time.monotonic() + SERVES_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            time.sleep(0.1)
    return False


def parse(app: typer.Typer, words: list[str]) -> None:
    """Let a command line read its arguments, and run nothing.

    Raises:
        Exception: There is no such command or option, or a value is wrong.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context(words[0], list(words[1:]))
    rest = words[1:]
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        try:
            context = command.make_context(name, list(rest), parent=context)
        except BadParameter as error:
            if "does not exist" in str(error):  # a file that the reader has
                return
            raise
