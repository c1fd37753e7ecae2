"""Throughput against stock vLLM, in rounds in which every engine and variant takes its turn on the same warm card.

Stock is vLLM as it comes. Beside it: stock with the V1 runner, and stock without asynchronous scheduling, to attribute a
difference. With the plugin: nothing asked; every request steered on one layer with 256 distinct configurations; every
request on every layer; pooled capture of every layer; 256 directions monitored on every generated token of every request. A
batch smaller than 256 takes other configurations from the 256 in each round.

A ratio is throughput over stock's in the same round, on the same prompts; above 1 is faster than stock. Its median and
range are given, and the bootstrap interval of its mean. A run in which a variant did less than was asked is an error.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from asking import CAPTURE, N_DIRECTIONS, Request, Shape, configuration, every_layer, monitored, prompts, spec
from engines import Engine, EngineError, Kind, engines_of
from stage import Context, Report, Stage, main
from trait_core.statistics import bootstrap_interval

KINDS = {
    "stock": Kind(plugin=False, apart=True),
    "stock, V1 runner": Kind(plugin=False, apart=True, v1=True),
    "stock, synchronous": Kind(plugin=False, apart=True, synchronous=True),
    "plugin": Kind(apart=True),
}
VARIANTS = (
    "idle",
    "256 configurations, one layer",
    "every layer",
    "capture of every layer",
    "256 directions monitored",
)
STOCK = ("stock", "")
N_PROMPT = 16
SPARE_S = 12
LEAST_ROUNDS = 2


def run(context: Context, report: Report) -> None:
    """All engines start side by side and stay; then batch after batch, each for its share of the time."""
    kinds = context.pick(cuda=KINDS, cpu={name: KINDS[name] for name in ("stock", "plugin")})
    with engines_of(context, kinds, share=1 / 16) as engines:
        shape = engines["plugin"].shape
        for name, engine in engines.items():
            report.row("engines", engine=name, **engine.ready)
        batches = context.pick(cuda=(1, 64, 256), cpu=(1, 4))
        for i, batch in enumerate(batches):
            deadline = time.monotonic() + (context.left_s - SPARE_S) / (len(batches) - i)
            most = context.pick(cuda=23, cpu=2)
            for n, (seconds, tokens) in enumerate(rounds(context, engines, shape, batch), 1):
                if n == most or (n >= LEAST_ROUNDS and time.monotonic() >= deadline):
                    _tabulate(report, batch, seconds, tokens)
                    break
    rows = report.tables["throughput"]
    by_batch = {
        batch: {row["variant"]: row["median"] for row in rows if row["batch"] == batch and row["engine"] == "plugin"}
        for batch in batches
    }
    report.figure = "of stock: " + "; ".join(
        f"batch {batch}: idle {medians['idle']:.3f}, every layer {medians['every layer']:.3f}"
        for batch, medians in by_batch.items()
    )


def rounds(
    context: Context,
    engines: dict[str, Engine],
    shape: Shape,
    batch: int,
    failed: Callable[[str, str, EngineError], None] | None = None,
) -> Iterator[tuple[dict[tuple[str, str], list[float]], int]]:
    """Run rounds without an end; yields after each but the first.

    Args:
        context: The stage's options.
        engines: Name -> engine; `plugin` takes a turn for each variant.
        shape: The model's shape.
        batch: Requests of a run.
        failed: Told of an engine and variant that failed, which then takes no more turns; None: the error is raised.

    Yields:
        Seconds of every round so far, by engine and variant; and the tokens of a run.

    Raises:
        EngineError: An engine failed.
    """
    names = [name for name in engines if name != "plugin"]
    turns = [(name, "") for name in names] + [("plugin", variant) for variant in VARIANTS if "plugin" in engines]
    n_tokens = context.pick(cuda=128 if batch < 256 else 96, cpu=4)
    seconds: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
    generated = 0
    for round_ in itertools.count():
        texts = prompts(shape, [N_PROMPT] * batch, seed=round_)
        first = round_ % max(1, len(turns))
        for turn in turns[first:] + turns[:first]:  # no turn always follows the same one
            engine, variant = turn
            asked = [_asked(variant, shape, f"{round_}-{i}", i, round_, batch) for i in range(batch)]
            requests = [Request(t, a, n_tokens, logprobs=0) for t, a in zip(texts, asked, strict=True)]
            try:
                wall, generated = engines[engine].call("timed", requests)
            except EngineError as error:
                if failed is None:
                    raise
                failed(engine, variant, error)
                turns.remove(turn)
                del seconds[turn]
                continue
            if round_:
                seconds[turn].append(wall)
        if not turns:
            return
        if round_:
            yield seconds, generated


def _asked(variant: str, shape: Shape, key: str, i: int, round_: int, batch: int) -> str | None:
    c = (i + round_ * batch) % N_DIRECTIONS
    match variant:
        case "" | "idle":
            return None
        case "256 configurations, one layer":
            return configuration(shape, key, c, operations=False)
        case "every layer":
            return every_layer(shape, key, c)
        case "capture of every layer":
            return spec(key, capture=CAPTURE)
        case "256 directions monitored":
            return monitored(shape, key, 0, N_DIRECTIONS)
    raise ValueError(f"variant {variant!r} is not known")


def _tabulate(report: Report, batch: int, seconds: dict[tuple[str, str], list[float]], tokens: int) -> None:
    for (engine, variant), walls in seconds.items():
        ratios = [base / wall for base, wall in zip(seconds[STOCK], walls, strict=True)]
        report.row(
            "throughput",
            batch=batch,
            engine=engine,
            variant=variant,
            **{
                "tokens/s": round(tokens / statistics.median(walls)),
                "median": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "mean": statistics.fmean(ratios),
                "interval of the mean": _rounded(bootstrap_interval(ratios)),
                "rounds": len(ratios),
                "ratios": _rounded(ratios),
            },
        )


def _rounded(values: Sequence[float] | None) -> list[Any]:
    return [round(value, 4) for value in values or ()]


STAGE = Stage(
    "throughput",
    "Throughput against stock vLLM, batches of 1, 64 and 256: idle, steered, captured and monitored, in paired rounds.",
    limit_s=240,
    run=run,
    alone=True,
)

if __name__ == "__main__":
    main(STAGE)
