"""The cost of vectors that travel with their requests: each request brings a new one, against registered ones, in pairs.

    python experiments/steering_overhead/inline_cost.py

Both ways send the same completions with the same directions through the service's own application, in this process. A pair
runs both ways after each other on prompts of its own; the order turns. No direction of an inline request was seen before.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
from trait_steering import LocalEngine, ServiceInfo, Steering, SteeringTerm, VectorFile, inline_vector

N_PROMPT = 16
COEFFICIENT = 1.0


def directions(n: int, d_model: int, seed: int) -> np.ndarray:
    """Random directions, `(n, d_model)` float32."""
    return np.random.default_rng(seed).standard_normal((n, d_model)).astype(np.float32)


def register(engine: LocalEngine, made: np.ndarray, info: ServiceInfo, layer: int) -> list[str]:
    """Put a vector file for each direction into the registry; returns their names."""
    names = [f"direction_{i}" for i in range(len(made))]
    for name, direction in zip(names, made, strict=True):
        engine.put_vector(name, VectorFile.from_arrays(name, {layer: direction}, info).to_bytes())
    return names


def steered(vectors: Sequence[object], layer: int) -> list[Steering]:
    """One steering for each vector."""
    return [
        Steering(terms=[SteeringTerm(vector=vector, coefficient=COEFFICIENT, layers=[layer])]) for vector in vectors
    ]


def new_vectors(n: int, d_model: int, layer: int, seed: int) -> list[Steering]:
    """One steering for each of `n` directions that the service has not seen."""
    return steered([inline_vector(direction) for direction in directions(n, d_model, seed)], layer)


def tokens_per_second(engine: LocalEngine, steerings: list[Steering], run: int, max_tokens: int) -> float:
    """Generated tokens a second of one batch; every reply says that it was steered."""
    rng = np.random.default_rng(run)
    prompts = rng.integers(1000, 20_000, size=(len(steerings), N_PROMPT)).tolist()
    started = time.perf_counter()
    replies = engine.complete_many(prompts, steerings=steerings, max_tokens=max_tokens)
    took = time.perf_counter() - started
    generated = 0
    for reply in replies:
        if reply.steering is None or reply.steering.positions.prompt != N_PROMPT:
            raise RuntimeError(f"a reply was not steered on its whole prompt: {reply.steering}")
        generated += 1 + reply.steering.positions.generated
    return generated / took


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=128, help="in one batch, each with a vector of its own")
    parser.add_argument("--tokens", type=int, default=9, help="of each reply")
    parser.add_argument("--pairs", type=int, choices=range(2, 101, 2), metavar="EVEN", default=8)
    given = parser.parse_args()
    with closing(LocalEngine(enforce_eager=True, max_model_len=256, max_num_seqs=given.requests)) as engine:
        info = engine.info()
        layer = info.n_layers // 2
        names = register(engine, directions(given.requests, info.d_model, seed=0), info, layer)
        ways: dict[str, Callable[[int], list[Steering]]] = {
            "registered": lambda _: steered(names, layer),
            "inline": lambda run: new_vectors(given.requests, info.d_model, layer, seed=1 + run),
        }
        ratios = []
        for run in range(given.pairs + 1):
            rates = {}
            for way in sorted(ways, reverse=bool(run % 2)):
                rates[way] = tokens_per_second(engine, ways[way](run), run, given.tokens)
            if run:  # the first one warms up
                ratios.append(rates["inline"] / rates["registered"])
                print(f"  {run}/{given.pairs} {ratios[-1]:.3f}", flush=True)
    # The second of a pair is the faster one, whichever it is: the order's effect leaves the mean of two pairs.
    means = [math.sqrt(a * b) for a, b in zip(ratios[::2], ratios[1::2], strict=True)]
    print(
        f"throughput of new inline vectors / registered ones: {statistics.median(means):.3f}, "
        f"from {min(means):.3f} to {max(means):.3f} over pairs of both orders"
    )


if __name__ == "__main__":
    main()
