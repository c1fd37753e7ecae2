"""The cost of steering: throughput of vLLM with the plugin against stock vLLM, in runs that take turns.

    make bench          decode, prefill and mixed work, eager and compiled, and a sweep against transformers
    make bench-quick    decode-bound work and the sweep, eager: under ten minutes

Every run of a variant is paired with a run of stock vLLM on the same prompts; a result is the median of the ratios. Eager,
stock is the same engine with the plugin taken out (vLLM's own runner and scheduler, no hooks), since two processes differ
in speed by where their memory lies; `separate_process` compares that with a vLLM that never saw the plugin. Compiled, stock
is a process of its own.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import report
from engines import Engine, Timing
from hooks import WAYS, Hooks, same_replies
from trait_steering import model_folder
from workloads import CONFIGURATIONS, N_CONFIGURATIONS, N_PROMPTS, N_TOKENS, STOCK, WORKLOADS

VARIANTS = (
    "idle",
    *(f"configurations_{k}" for k in CONFIGURATIONS),
    "gated_256",
    "latched_256",
    "replace_256",
    "rotate_256",
    "all_layers",
    "capture",
    "monitor",
    "monitor_256",
    "lens",
)
OF_HOOK_POINTS = ("mlp_out_256",)
"""Variants that need `--hook-points`."""
MODES = ("eager", "compiled")
SEPARATE = "separate_process"
"""Stock vLLM in a process of its own, against the steered engine with the plugin taken out."""
HERE = Path(__file__).parent


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="folder of the model; default: SmolLM2-135M-Instruct, which comes with the package"
    )
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--mode", action="append", choices=MODES, help="default: both")
    parser.add_argument(
        "--variant", action="append", choices=(*VARIANTS, *OF_HOOK_POINTS), help="default: all that the engine has"
    )
    parser.add_argument(
        "--hook-points", default="", help="start the engine with them, as `trait-service serve` (default: none)"
    )
    parser.add_argument("--pairs", type=int, default=12, help="runs of each variant beside a stock run")
    parser.add_argument("--sweeps", type=int, default=5, help="runs of the sweep each way; 0: none")
    parser.add_argument("--only-sweep", action="store_true", help="measure the sweep alone, into sweep.json")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json, table.md and overhead.png")
    options = parser.parse_args()
    model = options.model or str(model_folder())
    workloads = options.workload or list(WORKLOADS)
    hook_points = [name for name in options.hook_points.split(",") if name]
    if "mlp_out" not in hook_points and set(options.variant or ()) & set(OF_HOOK_POINTS):
        parser.error(f"{', '.join(OF_HOOK_POINTS)}: needs --hook-points mlp_out")
    variants = options.variant or [*VARIANTS, *(OF_HOOK_POINTS if "mlp_out" in hook_points else ())]
    if options.only_sweep:
        only_sweep(model, options.sweeps, options.out)
        return
    measured: dict[str, Any] = {}
    sweep: dict[str, Any] | None = None
    started = time.monotonic()
    table = ""
    for mode in options.mode or MODES:
        stock, steered = (
            Engine(model, plugin=plugin, compiled=mode == "compiled", hook_points=hook_points)
            for plugin in (False, True)
        )
        try:
            for name in workloads:
                figures = measure(stock, steered, name, variants, options.pairs, mode)
                measured.setdefault(mode, {})[name] = figures
                if options.sweeps and sweep is None:
                    sweep = measure_sweep(steered, model, options.sweeps)
                table = write(measured, sweep, time.monotonic() - started, options.out)
        finally:
            stock.close()
            steered.close()
    print(table)


def only_sweep(model: str, runs: int, folder: Path) -> None:
    """Measure the sweep against transformers, and nothing against stock vLLM."""
    steered = Engine(model, plugin=True, compiled=False, hook_points=[])
    try:
        sweep = measure_sweep(steered, model, runs)
    finally:
        steered.close()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"sweep": sweep, "machine": _machine()}, indent=1) + "\n")
    print(json.dumps(sweep, indent=1))


def write(measured: dict[str, Any], sweep: dict[str, Any] | None, seconds: float, folder: Path) -> str:
    """Write what has been measured so far: a long benchmark that is stopped loses one workload. Returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: None for workloads in measured.values() for name in workloads}
    document = {
        **(_summary_of(measured, sweep)),
        "machine": _machine(),
        "workloads": {name: vars(WORKLOADS[name]) for name in names},
        "measured": measured,
        "seconds": round(seconds),
    }
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    return report.write(document, folder)


def measure(
    stock: Engine, steered: Engine, workload: str, variants: list[str], pairs: int, mode: str
) -> dict[str, Any]:
    """Ratios of one workload: for each variant, throughput against stock."""
    print(f"{mode}, {WORKLOADS[workload]}", flush=True)
    stock.run(workload, STOCK, 0)
    variants = [*variants, SEPARATE] if mode == "eager" else variants
    for variant in variants:
        if variant != SEPARATE:
            steered.run(workload, variant, 0)
    ratios: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    for round_ in range(pairs):
        # Two variants share a stock run between them; partners and order turn from round to round.
        turn = round_ % len(variants)
        order = variants[turn:] + variants[:turn]
        for i in range(0, len(order), 2):
            names = [order[i], STOCK, *order[i + 1 : i + 2]]
            run = 1 + round_ * len(order) + i
            timings: dict[str, Timing] = {}
            for name in names if round_ % 2 else names[::-1]:
                apart = name == SEPARATE or (name == STOCK and mode == "compiled")
                variant = STOCK if name == SEPARATE else name
                timings[name] = (stock if apart else steered).run(workload, variant, run)
            plain = timings.pop(STOCK)
            for name, timing in timings.items():
                ratios[name].append((plain.wall / timing.wall, plain.cpu / timing.cpu))
        medians = "  ".join(f"{name} {statistics.median(w for w, _ in got):.3f}" for name, got in ratios.items())
        print(f"  {round_ + 1}/{pairs} stock {plain.wall:.1f} s  {medians}", flush=True)
    return {name: _figures(got) for name, got in ratios.items()}


def measure_sweep(engine: Engine, model: str, pairs: int) -> dict[str, Any]:
    """Trials a second of the engine over those of transformers with hooks, on the same work."""
    hooks = Hooks(model, engine.norms())
    ratios: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS[1:]}
    same = {}
    try:
        for round_ in range(pairs + 1):
            ours, replies = engine.sweep()
            for way in WAYS[1:]:
                theirs, their_replies = hooks.run(way)
                if round_:  # the first one warms up
                    ratios[way].append((theirs.wall / ours.wall, theirs.cpu / ours.cpu))
                    print(f"  sweep {round_}/{pairs} {way}: {theirs.wall / ours.wall:.2f}", flush=True)
                same[way] = same_replies(replies, their_replies)
    finally:
        hooks.close()
    work = f"{N_CONFIGURATIONS} configurations x {N_PROMPTS} chats, up to {N_TOKENS} tokens, greedy, float32"
    return {
        "work": work,
        **{way: {**_figures(got), "equal_replies": same[way]} for way, got in ratios.items()},
    }


def _summary_of(measured: dict[str, Any], sweep: dict[str, Any] | None) -> dict[str, Any]:
    """The figures by which the engine is judged: those of the first mode and workload, and the stronger opponent."""
    figures = next(iter(next(iter(measured.values())).values()))
    summary: dict[str, Any] = {
        name: _short(got) for name, got in figures.items() if not name.startswith("configurations_")
    }
    summary["configurations"] = {
        name.partition("_")[2]: _short(got) for name, got in figures.items() if name.startswith("configurations_")
    }
    if sweep is not None:
        strongest = min(WAYS[1:], key=lambda way: sweep[way]["median"])
        summary["sweep_vs_transformers"] = {**_short(sweep[strongest]), "against": strongest, "detail": sweep}
    return summary


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in ("median", "minimum", "maximum", "pairs")}


def _figures(ratios: list[tuple[float, float]]) -> dict[str, Any]:
    wall, cpu = ([ratio[i] for ratio in ratios] for i in (0, 1))
    return {
        "median": statistics.median(wall),
        "minimum": min(wall),
        "maximum": max(wall),
        "pairs": len(wall),
        "interval_of_median": _interval(wall),
        "by_cpu_second": {"median": statistics.median(cpu), "interval_of_median": _interval(cpu), "ratios": cpu},
        "ratios": wall,
    }


def _interval(values: list[float]) -> tuple[float, float]:
    """Order statistics that hold the median with about 95 % (binomial)."""
    n, ordered = len(values), sorted(values)
    skipped = max(int(n / 2 - 0.98 * n**0.5), 0)
    return ordered[skipped], ordered[n - 1 - skipped]


def _machine() -> dict[str, Any]:
    return {"cores": len(os.sched_getaffinity(0)), "processor": _processor()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
