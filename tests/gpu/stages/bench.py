"""Throughput against stock vLLM: `bench.py FOLDER[,NAME...] --budget SECONDS --pairs N`; weights are random.

A name is a folder beside the first one. All engines start at once, as many as fit on the card, and take turns; what each
has is printed after every round. Ratios are to stock vLLM as it comes, in the same round; above 1 is faster.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import bare
import throughput
from engines import Engine, EngineError
from stage import Context

ORDER = ("stock", "plugin", "stock, V1 runner", "stock, synchronous")
"""Engines by weight: the last ones are left out first where the card is too small."""
BATCHES = (1, 64, 256)
OVERHEAD_GIB = 1.5
"""Memory of an engine beside weights and KV cache: its context, graphs and workspaces."""
USABLE = 0.94
"""Share of the card's memory that all engines may take."""
SHORT_S = 240
"""With less time than this only the first two engines of each model start: eight took 90 s on 16 cores."""
LARGE_GIB = 4
"""A model with weights of more than this gets as much for its KV cache; others get 1 GiB."""


def bench(context: Context, models: Sequence[str], pairs: int, found: bare.Lines) -> None:
    """Start what fits; then all batches of every model, each for its share of the time."""
    with ExitStack() as stack:
        fleets: dict[str, dict[str, Engine]] = {model: {} for model in models}
        for model, name, kv_gib in _fitting(context, models):
            kind = throughput.KINDS[name]
            further = {
                "load_format": "dummy",
                **bare.ENGINE_OPTIONS,
                **context.pick(cuda={"dtype": "bfloat16"}, cpu={}),
            }
            engine = Engine(
                replace(context, model=model),
                replace(kind, options=further),
                share=kv_gib / max(1.0, context.machine.memory_gib),
            )
            fleets[model][name] = stack.enter_context(engine)
        for model, engines in fleets.items():
            _keep_those_that_start(Path(model).name, engines, found)
        jobs = [(model, batch) for batch in context.pick(cuda=BATCHES, cpu=(1, 4)) for model in models]
        for i, (model, batch) in enumerate(jobs):
            if context.left_s < 1:
                found.check(False, f"the time was up before {Path(model).name}, batch {batch}")
                break
            deadline = time.monotonic() + context.left_s / (len(jobs) - i)
            _measure(context, Path(model).name, fleets[model], batch, pairs, deadline, found)


def _fitting(context: Context, models: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """Model, engine and GiB of its KV cache, of those that fit beside one another; every model's first ones come first."""
    free = context.pick(cuda=context.machine.memory_gib * USABLE, cpu=float("inf"))
    weights = {model: _weights_gib(model) for model in models}
    for name in ORDER if context.cuda and context.left_s >= SHORT_S else ORDER[:2]:
        for model, size in weights.items():
            kv_gib = LARGE_GIB if size > LARGE_GIB else 1.0
            needed = size + kv_gib + OVERHEAD_GIB
            if needed > free:
                bare.result("skipped", f"{Path(model).name} {name}: needs {needed:.1f} GiB, {free:.1f} GiB are left")
                continue
            free -= needed
            yield model, name, kv_gib


def _weights_gib(model: str) -> float:
    """Size of a model's weights in 16 bits."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return 2 * sum(weight.numel() for weight in empty.parameters()) / bare.GIB


def _keep_those_that_start(model: str, engines: dict[str, Engine], found: bare.Lines) -> None:
    for name, engine in list(engines.items()):
        try:
            found.row("engines", model=model, engine=name, **engine.ready)
        except EngineError as error:
            found.check(False, f"{model} {name} did not start: {error}")
            del engines[name]


def _measure(
    context: Context,
    model: str,
    engines: dict[str, Engine],
    batch: int,
    pairs: int,
    deadline: float,
    found: bare.Lines,
) -> None:
    """Rounds until there are enough or the time is up."""

    def failed(engine: str, variant: str, error: EngineError) -> None:
        found.check(False, f"{model}, batch {batch}, {engine} {variant}: {error}")

    if "plugin" not in engines:
        found.check(False, f"{model}, batch {batch}: the engine with the plugin is missing")
        return
    try:
        shape = engines["plugin"].shape
    except EngineError as error:
        failed("plugin", "shape", error)
        return
    for n, (seconds, tokens) in enumerate(throughput.rounds(context, engines, shape, batch, failed), 1):
        found.row("throughput", model=model, batch=batch, rounds=n, **_cells(seconds, tokens))
        bare.document(bench={"model": model, "batch": batch, "tokens": tokens, "seconds": _named(seconds)})
        if n >= pairs or time.monotonic() >= deadline:
            break


def _cells(seconds: dict[tuple[str, str], list[float]], tokens: int) -> dict[str, list[float]]:
    """Each turn's median tokens/s; and the median, least and largest ratio to stock."""
    base = seconds.get(throughput.STOCK, [])
    cells: dict[str, list[float]] = {}
    for name, walls in _named(seconds).items():
        ratios = [one / wall for one, wall in zip(base, walls, strict=False)]
        spread = [statistics.median(ratios), min(ratios), max(ratios)] if ratios else []
        cells[name] = [round(tokens / statistics.median(walls)), *(round(ratio, 3) for ratio in spread)]
    return cells


def _named(seconds: dict[tuple[str, str], list[float]]) -> dict[str, list[float]]:
    return {variant or engine: walls for (engine, variant), walls in seconds.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", help="FOLDER[,NAME...]")
    parser.add_argument("--budget", type=float, default=200, help="seconds, the engines' start included [default: 200]")
    parser.add_argument("--pairs", type=int, default=4, help="rounds of each batch at most [default: 4]")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    os.environ.pop("VLLM_USE_V2_MODEL_RUNNER", None)  # each kind of engine has the runner that its name says
    first, *names = given.models.split(",")
    models = [first, *(str(Path(first).with_name(name)) for name in names)]
    found = bare.report("bench")
    bare.run(found, lambda: bench(bare.context(first, given.device, given.budget), models, given.pairs, found))


if __name__ == "__main__":
    main()
