"""Cost of steering on this machine: paired runs of the same batch, unsteered and steered, in one engine."""

import statistics
import time

from trait_service.verify.bench import Bench
from trait_service.verify.findings import Finding
from trait_service.verify.probe import Ask


def cost_of_steering(bench: Bench) -> Finding:
    """Throughput of a batch in which every request is steered differently, relative to the unsteered batch.

    The engine carries the plugin in both: the cost of an idle plugin against stock vLLM is the benchmark's to say.
    """
    n_requests, n_tokens, pairs = (16, 8, 3) if bench.quick else (32, 48, 7)
    prompts = [bench.prompts[i % len(bench.prompts)] for i in range(n_requests)]
    n_tokens = min(n_tokens, bench.engine.max_model_len - max(map(len, prompts)))
    plain = [Ask(prompt, max_tokens=n_tokens) for prompt in prompts]
    steered = [
        Ask(prompt, [bench.push(i % bench.engine.n_layers, 0.5 + 0.01 * i)], max_tokens=n_tokens)
        for i, prompt in enumerate(prompts)
    ]
    for warm_up in (plain, steered):
        bench.engine.run(warm_up)
    ratios, speeds = [], []
    for i in range(pairs):
        order = (plain, steered) if i % 2 == 0 else (steered, plain)
        seconds = {id(asks): _seconds(bench, asks) for asks in order}
        ratios.append(seconds[id(plain)] / seconds[id(steered)])
        speeds.append(n_requests * n_tokens / seconds[id(plain)])
    return Finding(
        status="measured",
        compared="seconds of a steered batch with those of the same batch unsteered",
        detail=f"steered batch / unsteered batch: {statistics.median(ratios):.3f} of the throughput (median of {pairs} pairs, "
        f"{min(ratios):.3f} to {max(ratios):.3f}); unsteered, plugin idle: {statistics.median(speeds):.0f} tokens/s, "
        f"{n_requests} requests x {n_tokens} tokens",
    )


def _seconds(bench: Bench, asks: list[Ask]) -> float:
    start = time.perf_counter()
    bench.engine.run(asks)
    return time.perf_counter() - start
