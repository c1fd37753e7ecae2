"""The time that the plugin adds to a step of stock vLLM: each of its entries into the step, timed from inside.

    python experiments/steering_overhead/added_time.py

Two runs of the same work differ by several per cent on a small machine, far more than what the plugin adds. This counts the
added seconds themselves, as a share of the run that they are part of; what it cannot see is what steering costs the model's
own code (memory, caches), which the paired runs of `bench.py` bound.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from bench import HERE, VARIANTS
from engines import engine_in_this_process
from report import LABELS
from trait_steering import model_folder
from workloads import WORKLOADS

PARTS = {
    "layers": "at the layers: steering, sums of pools, projections",
    "step": "once a step: newcomers admitted, the batch's rows and terms, projections kept",
    "requests": "once a request: prefix-cache key, report, results fetched",
}


class Stopwatch:
    """Seconds spent inside the plugin, by part; nested calls count once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = False

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `function`: its seconds are added to `part`."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - started
                self._inside = False

        return run

    def watch(self) -> None:
        """Time every function of the plugin that vLLM's loop calls; before the engine is made."""
        from trait_service.engine import layers, runner_v1, scheduler  # noqa: PLC0415 - after the environment is set
        from trait_service.engine.state import SteeringState  # noqa: PLC0415
        from trait_service.engine.step_end import EndOfStep  # noqa: PLC0415

        for owner, name, part in (
            (layers, "_after_layer", "layers"),
            (runner_v1, "view_of_v1", "step"),
            (SteeringState, "prepare", "step"),
            (SteeringState, "finish", "step"),
            (EndOfStep, "verdict", "step"),
            (SteeringState, "remove", "requests"),
            (SteeringState, "collect", "requests"),
            (scheduler, "branch_hashes", "requests"),
        ):
            setattr(owner, name, self.timed(part, getattr(owner, name)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model; default: SmolLM2-135M-Instruct")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--runs", type=int, default=5, help="of each variant")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of added_time.json and added_time.md")
    options = parser.parse_args()
    stopwatch = Stopwatch()
    engine = engine_in_this_process(
        options.model or str(model_folder()), plugin=True, compiled=False, before=stopwatch.watch
    )
    workloads = options.workload or list(WORKLOADS)
    shares = {
        workload: {variant: _shares(engine, stopwatch, workload, variant, options.runs) for variant in VARIANTS}
        for workload in workloads
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "added_time.json").write_text(json.dumps(shares, indent=1) + "\n")
    text = "\n\n".join(f"{workload}, eager:\n\n{_table(of_variant)}" for workload, of_variant in shares.items()) + "\n"
    (options.out / "added_time.md").write_text(text)
    print(text)


def _shares(engine: Any, stopwatch: Stopwatch, workload: str, variant: str, runs: int) -> dict[str, list[float]]:
    """Part -> its share of the run's wall clock, in each run; the first run warms up and is left out."""
    shares: dict[str, list[float]] = {part: [] for part in PARTS}
    for run in range(runs + 1):
        stopwatch.seconds.clear()
        wall, _ = engine.call(
            "run", workload, variant, 1000 * (1 + VARIANTS.index(variant)) + run
        )  # prompts of its own
        for part in PARTS if run else ():
            shares[part].append(stopwatch.seconds[part] / wall)
    return shares


def _table(of_variant: dict[str, dict[str, list[float]]]) -> str:
    lines = [
        "| share of the run's time, % | " + " | ".join(PARTS) + " | all | throughput that this alone leaves |",
        "|---|" + "---|" * (len(PARTS) + 2),
    ]
    for variant, shares in of_variant.items():
        whole = statistics.median(sum(run) for run in zip(*shares.values(), strict=True))
        cells = [f"{100 * statistics.median(shares[part]):.2f}" for part in PARTS]
        lines.append(f"| {LABELS[variant]} | {' | '.join(cells)} | {100 * whole:.2f} | {1 - whole:.4f} |")
    return "\n".join([*lines, "", *(f"*{part}*: {what}." for part, what in PARTS.items())])


if __name__ == "__main__":
    main()
