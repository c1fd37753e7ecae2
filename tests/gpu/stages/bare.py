"""Code shared by the scripts with fixed names: their results as lines on stdout, and engines that leave room.

`probe`, `kernels`, `make_models`, `stock`, `verify`, `bench` and `cuda_driver` run where vLLM is unpacked beside a bare
PyTorch, without this project installed and without a network. Lines for a reader begin with `RESULT ok` or
`RESULT FAILED`, lines for a program with `JSON`. Several of them run at once on one card.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from machine import Machine
from stage import Context, Device, Report

GIB = 2**30
ENGINE_OPTIONS: Mapping[str, Any] = {"kernel_config": {"enable_jit_warmup": False}}
"""Options of every engine: the libraries whose kernels it would warm up are not there."""
MOST_FAILURES = 12
"""Failures that are printed for a reader; all of them are in the last line."""


@dataclass
class Lines(Report):
    """A report whose rows and failures are lines on stdout, and which writes no file.

    Args:
        silent: Tables whose rows are too many for a reader; they are printed without `RESULT`.
    """

    silent: frozenset[str] = frozenset()

    def row(self, table: str, **cells: Any) -> None:
        """Add a row and print it."""
        super().row(table, **cells)
        if table not in self.silent:
            result("ok", f"{table}: {json.dumps({name: _short(value) for name, value in cells.items()}, default=str)}")

    def check(self, passed: bool, failure: str) -> None:
        """Note and print a failure unless it passed."""
        super().check(passed, failure)
        if not passed and len(self.failures) <= MOST_FAILURES:
            result("FAILED", failure)


def result(status: str, text: str) -> None:
    """Print a line for a reader."""
    print("RESULT", status, " ".join(text.split())[:1100], flush=True)


def document(**found: Any) -> None:
    """Print a line for a program."""
    print("JSON", json.dumps(found, default=str), flush=True)


def report(name: str, *, silent: frozenset[str] = frozenset()) -> Lines:
    """An empty report."""
    return Lines(Path(os.devnull), {"stage": name}, silent=silent)


def context(model: str, device: Device, limit_s: float) -> Context:
    """A stage's context; torch says what the card is where the driver's own tool is not installed."""
    machine = Machine.here()
    if device == "cuda" and not machine.memory_gib:
        import torch

        card = torch.cuda.get_device_properties(0)
        machine = replace(
            machine,
            card=card.name,
            memory_gib=round(card.total_memory / GIB, 1),
            capability=f"{card.major}.{card.minor}",
        )
    return Context(model, device, machine, limit_s, time.monotonic())


def run(found: Lines, work: Callable[[], None]) -> NoReturn:
    """Do a script's work, print what it found, and exit: with 1 if a check failed or it raised."""
    name = found.head["stage"]
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever a library raised is this script's result
        traceback.print_exc()
        found.check(False, f"{name}: {type(error).__name__}: {error}")
    failures = f"{len(found.failures)} failed; " if found.failures else ""
    result("FAILED" if found.failures else "ok", f"{name}: {failures}{found.figure}")
    document(**found.head, failures=found.failures, tables=found.tables)
    sys.exit(bool(found.failures))


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
