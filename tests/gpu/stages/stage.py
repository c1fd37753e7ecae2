"""A stage: its name, limit and description; its command line; and its report, a table on stdout and JSON in a folder.

Each stage is a script of its own:

    python tests/gpu/stages/NAME.py --model FOLDER --out build/gpu [--device cpu]

It exits with 0 if it is ok or skipped, and with 1 if a check failed. Importing one is cheap: torch and vLLM are imported
when it runs, after the environment is set.
"""

import argparse
import json
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from machine import Machine

Device = Literal["cuda", "cpu"]
Status = Literal["ok", "FAILED", "skipped", "unfinished"]
T = TypeVar("T")

DEFAULT_MODEL = "smollm2"


class Skip(Exception):  # noqa: N818 - skipping is not an error
    """The stage has nothing to do here; the message says why."""


@dataclass(frozen=True)
class Context:
    """The options that a stage is run with.

    Args:
        model: Folder, Hugging Face id, or a model that comes with the package.
        device: `cpu` runs the same steps, small, to test the stage itself: it says nothing about CUDA.
        machine: Where it runs.
        limit_s: Seconds that the stage may take.
        started: When it began, on the monotonic clock.
    """

    model: str
    device: Device
    machine: Machine
    limit_s: float
    started: float

    @property
    def cuda(self) -> bool:
        """True on a GPU."""
        return self.device == "cuda"

    def pick(self, *, cuda: T, cpu: T) -> T:
        """One of two, by device."""
        return cuda if self.cuda else cpu

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self.started + self.limit_s - time.monotonic()


@dataclass
class Report:
    """A stage's findings, written after every row, so that a stage that is stopped leaves what it found.

    Args:
        path: JSON file.
        head: Stage, command, machine.
        tables: Name -> rows.
        failures: One sentence for each check that failed.
        figure: The main figure, for the summary.
    """

    path: Path
    head: Mapping[str, Any]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    figure: str = ""

    def row(self, table: str, **cells: Any) -> None:
        """Add a row and print it; numbers are rounded in print only."""
        rows = self.tables.setdefault(table, [])
        if not rows:
            print(f"\n{table}\n" + " | ".join(cells), flush=True)
        rows.append(cells)
        print(" | ".join(_text(value) for value in cells.values()), flush=True)
        self.write("unfinished")

    def check(self, passed: bool, failure: str) -> None:
        """Note a failure unless it passed."""
        if not passed:
            self.failures.append(failure)
            print(f"FAILED: {failure}", flush=True)

    def write(self, status: Status, seconds: float | None = None) -> None:
        """Write the JSON."""
        document = {
            **self.head,
            "status": status,
            "seconds": None if seconds is None else round(seconds, 1),
            "figure": self.figure,
            "failures": self.failures,
            "tables": self.tables,
        }
        self.path.write_text(json.dumps(document, indent=1, default=str) + "\n")


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        name: Also the name of its file, here and among the results.
        description: One sentence: what it checks or measures.
        limit_s: Seconds after which the runner stops it.
        run: Runs it; raises `Skip` where it cannot.
        alone: Nothing else may run beside it: it measures time, or takes the whole card.
    """

    name: str
    description: str
    limit_s: int
    run: Callable[[Context, Report], None]
    alone: bool = False


def main(stage: Stage) -> None:
    """Command line of one stage."""
    parser = argparse.ArgumentParser(description=stage.description)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder, Hugging Face id, or smollm2 [default]")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--limit", type=float, default=stage.limit_s, help="seconds that it may take")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    started, machine = time.monotonic(), Machine.here()
    head = {
        "stage": stage.name,
        "description": stage.description,
        "device": given.device,
        "model": given.model,
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine.to_dict(),
    }
    report = Report(given.out / f"{stage.name}.json", head)
    context = Context(_folder(given.model), given.device, machine, given.limit, started)
    status: Status
    try:
        stage.run(context, report)
        status = "FAILED" if report.failures else "ok"
    except Skip as reason:
        status, report.figure = "skipped", str(reason)
    except Exception as error:  # noqa: BLE001 - whatever a library raised is this stage's result
        traceback.print_exc()
        report.failures.append(f"{type(error).__name__}: {error}"[:2000])
        status = "FAILED"
    report.write(status, time.monotonic() - started)
    print(f"\n{stage.name}: {status} {report.figure}", flush=True)
    sys.exit(status == "FAILED")


def _folder(model: str) -> str:
    from trait_service.models.bundled import resolve

    return resolve(model)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
