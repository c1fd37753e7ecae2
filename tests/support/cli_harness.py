"""The command line in this process, as from a shell."""

import sys
from collections.abc import Callable

from trait_client.cli import main

Run = Callable[..., tuple[int, str, str]]


def runner(monkeypatch, capsys) -> Run:
    """`run(*arguments) -> (exit code, stdout, stderr)`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trait-client", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
