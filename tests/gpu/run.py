"""Run every stage on this machine's GPU: `make test-gpu`, or `python tests/gpu/run.py`.

Each stage is a process of its own with a time limit: one that fails or hangs stops no other. Stages that measure nothing
run side by side; those that measure time run alone. Results in the output folder: `summary.txt`, a line a stage; a JSON
file and a log for each.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STAGES = HERE / "stages"
ORDER = (
    "imports",
    "kernels_on_device",
    "graphs",
    "churn",
    "ends",
    "sleeping",
    "verification",
    "cold_start",
    "throughput",
)
LEAST_S = 15
"""A stage is not begun with less time than this."""
ENDING_S = 5
"""A stage plans to end this long before it is stopped."""
FREEING_S = 10
"""Its processes have this long to end: the card's memory is free only then."""
MEMORY_A_STAGE_GIB = 16
CORES_A_STAGE = 4


@dataclass(frozen=True)
class Outcome:
    """Outcome of one stage."""

    name: str
    status: str
    seconds: float
    figure: str

    @property
    def line(self) -> str:
        """Its line of the summary."""
        return f"{self.name:<18} {self.status:<8} {self.seconds:6.0f} s  {self.figure}".rstrip()


def main() -> int:
    """Command line; returns the exit code: 0, or 1 if a stage failed or was not begun for want of time."""
    given = _arguments()
    stages = {name: load(given.stages, name) for name in given.stage or names_in(given.stages)}
    if given.list:
        for name, stage in stages.items():
            print(f"{name:<18} {stage.limit_s:4} s  {stage.description}")
        return 0
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in stages:  # what an earlier run left would look like this run's
        (out / f"{name}.json").unlink(missing_ok=True)
    machine = sys.modules["machine"].Machine.here()
    runner = Runner(given, out, time.monotonic() + given.budget)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: runner.stop())
    head = f"{machine.card}, driver {machine.driver or 'none'}, {given.device}, model {given.model}, commit {machine.commit}"
    print(head, flush=True)
    outcomes = [
        outcome for names in groups(stages) for outcome in runner.run_all(names, jobs(given.jobs, machine), stages)
    ]
    summary = "\n".join([head, *(outcome.line for outcome in outcomes)]) + "\n"
    (out / "summary.txt").write_text(summary)
    print(f"\n{summary}\nresults: {out}")
    if given.results is not None:
        print(f"copied to {copy_results(out, given.results / machine.slug, [outcome.name for outcome in outcomes])}")
    return int(any(outcome.status not in ("ok", "skipped") for outcome in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="folder, Hugging Face id, or smollm2 [default]; 1B at most")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tests the stages, small")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "build/gpu"), help="[default: $OUT]")
    parser.add_argument("--stage", action="append", help="only this one; may be repeated [default: all]")
    parser.add_argument("--budget", type=float, default=600, help="seconds of the whole run [default: 600]")
    parser.add_argument("--jobs", type=int, help="stages side by side [default: by memory and cores]")
    parser.add_argument(
        "--results", type=Path, help="folder whose subfolder, named by the card, gets a copy of the results"
    )
    parser.add_argument("--list", action="store_true", help="list the stages and run none")
    parser.add_argument("--stages", type=Path, default=STAGES, help=argparse.SUPPRESS)
    return parser.parse_args()


def names_in(folder: Path) -> list[str]:
    """The stages of a folder: in their order where it is this project's."""
    if folder == STAGES:
        return list(ORDER)
    return sorted(path.stem for path in folder.glob("*.py"))


def load(folder: Path, name: str) -> Any:
    """The `STAGE` of a script, without running it."""
    for path in (str(STAGES), str(folder)):
        if path not in sys.path:
            sys.path.append(path)  # at the end: no module of the stages may take a package's name
    return importlib.import_module(name).STAGE


def groups(stages: dict[str, Any]) -> Iterable[list[str]]:
    """Consecutive stages that may run side by side."""
    group: list[str] = []
    for name, stage in stages.items():
        if stage.alone:
            if group:
                yield group
            yield [name]
            group = []
        else:
            group.append(name)
    if group:
        yield group


def jobs(asked: int | None, machine: Any) -> int:
    """Stages side by side: each has engines that take memory and cores; one without a GPU."""
    return asked or max(1, min(int(machine.memory_gib // MEMORY_A_STAGE_GIB), machine.cores // CORES_A_STAGE))


class Runner:
    """Starts stages and reads what they found.

    Args:
        given: The command line.
        out: Folder of the results.
        deadline: When the whole run ends, on the monotonic clock.
    """

    def __init__(self, given: argparse.Namespace, out: Path, deadline: float) -> None:
        self._given, self._out, self._deadline = given, out, deadline
        self._running: set[subprocess.Popen] = set()

    def stop(self) -> None:
        """End the stages that run, whose sessions no signal of a terminal reaches, and begin no further one."""
        self._deadline = 0.0
        for process in tuple(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def run_all(self, names: Sequence[str], side_by_side: int, stages: dict[str, Any]) -> list[Outcome]:
        """Run stages side by side; in their order."""
        with ThreadPoolExecutor(side_by_side) as pool:
            return list(pool.map(lambda name: self._run(name, stages[name].limit_s), names))

    def _run(self, name: str, limit_s: float) -> Outcome:
        limit_s = min(limit_s, self._deadline - time.monotonic())
        if limit_s < LEAST_S:
            outcome = Outcome(name, "FAILED", 0, "not begun: no time was left for it")
        else:
            print(f"{name} ...", flush=True)
            outcome = self._started(name, limit_s)
        print(outcome.line, flush=True)
        return outcome

    def _started(self, name: str, limit_s: float) -> Outcome:
        script = self._given.stages / f"{name}.py"
        words = ["--model", self._given.model, "--device", self._given.device, "--out", str(self._out)]
        began = time.monotonic()
        with (self._out / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(script), *words, "--limit", f"{limit_s - ENDING_S:.0f}"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._path()},
                start_new_session=True,  # it and its engines end together
            )
            self._running.add(process)
            try:
                code: int | None = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                self._running.discard(process)
                _end_group(process)
        return self._outcome(name, code, time.monotonic() - began)

    def _path(self) -> dict[str, str]:
        """The stages' own folder is on a stage's path, and must not be on that of every process below it."""
        if self._given.stages == STAGES:
            return {}
        given = os.environ.get("PYTHONPATH")
        return {"PYTHONPATH": os.pathsep.join([*([given] if given else []), str(STAGES)])}

    def _outcome(self, name: str, code: int | None, seconds: float) -> Outcome:
        path = self._out / f"{name}.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        if code is None:
            return Outcome(name, "FAILED", seconds, f"stopped at its time limit; {_end_of(self._out / f'{name}.log')}")
        if found.get("status") not in ("ok", "FAILED", "skipped"):
            return Outcome(name, "FAILED", seconds, f"exit code {code}; {_end_of(self._out / f'{name}.log')}")
        failures = found["failures"]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        figure = f"{failures[0][:400]}{more}" if failures else found["figure"]
        return Outcome(name, found["status"], seconds, " ".join(figure.split()))


def copy_results(out: Path, folder: Path, names: Sequence[str]) -> Path:
    """Copy the summary and every stage's JSON; logs stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [out / "summary.txt", *(out / f"{name}.json" for name in names)]:
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def _end_group(process: subprocess.Popen) -> None:
    """End a stage's process and all that it started, and wait until the last one is gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + FREEING_S
    while _runs(process.pid) and time.monotonic() < until:
        time.sleep(0.1)


def _runs(group: int) -> bool:
    """True while a process of the group runs; one that has ended and was not asked how (a zombie) holds nothing."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in "ZX":
                return True
    return False


def _end_of(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"last line of its log: {lines[-1][:300]}" if lines else "its log is empty"


if __name__ == "__main__":
    sys.exit(main())
