"""A program in a terminal of its own, as a person has it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(
    command: Sequence[str],
    folder: Path,
    answers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    columns: int = 80,
    seconds: float = 500,
) -> tuple[int, str]:
    """`(exit code, what the screen shows)`.

    Args:
        command: Program and arguments.
        folder: Working directory.
        answers: Text of a question -> line that is typed once the screen shows it.
        environment: Variables beside those of this process.
        columns: Width of the terminal.
        seconds: Longest run.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    variables = {**os.environ, "TERM": "xterm", **(environment or {})}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=variables, start_new_session=True
    )
    os.close(theirs)
    waiting = dict(answers or {})
    shown, end = b"", time.monotonic() + seconds
    try:
        while True:
            if select.select([ours], [], [], max(0.0, end - time.monotonic()))[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # Linux: the other side is closed
                    break
                if not data:
                    break
                shown += data
            elif time.monotonic() >= end:
                pytest.fail(f"still running: {shown.decode(errors='replace')}")
            for question in [q for q in waiting if q.encode() in shown]:
                os.write(ours, waiting.pop(question).encode() + b"\n")
        return process.wait(30), _screen(shown.decode())
    finally:
        process.kill()
        os.close(ours)


def _screen(text: str) -> str:
    """The text without codes; of a line that was written over, what was written last."""
    plain = _CODE.sub("", text.replace("\r\n", "\n"))
    return "\n".join(line.rpartition("\r")[2] for line in plain.split("\n"))
