"""The checks: each takes the bench, runs the engine and reports its finding in one line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from trait_core.positions import Positions

from trait_service.engine.spec import CaptureSpec, TermSpec
from trait_service.verify.bench import LONG_TEXT, Bench, difference, effect
from trait_service.verify.probe import Ask

Status = Literal["ok", "failed", "skipped", "measured"]

POOLS = ("prompt[:]", "prompt[-1]", "response[:]", "all[4:]")
MAX_CONFIGURATIONS = 64


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        status: `skipped` and `measured` do not fail a verification.
        detail: One line with the numbers.
    """

    status: Status
    detail: str


Check = Callable[[Bench], Finding]


def steering_takes_effect(bench: Bench) -> Finding:
    """An addition at the first, a middle and the last layer moves the reply, and the worker counts its positions."""
    layers = sorted({0, bench.middle, bench.engine.n_layers - 1})
    prompt = bench.prompts[0]
    plain, *steered = bench.engine.run([Ask(prompt), *(Ask(prompt, [bench.push(layer)]) for layer in layers)])
    effects = [effect(plain, answer) for answer in steered]
    expected = len(prompt), len(plain.token_ids) - 1
    counts = [answer.report and (answer.report.steered_prompt, answer.report.steered_generated) for answer in steered]
    if any(count != expected for count in counts):
        return Finding("failed", f"(prompt, generated) positions steered: {counts}, expected {expected}")
    return _judged(
        min(effects) > bench.tolerance.effect,
        f"on layers {', '.join(map(str, layers))} logprobs move by {_numbers(effects)}, at least "
        f"{bench.tolerance.effect:g} expected",
    )


def coefficient_zero_is_a_no_op(bench: Bench) -> Finding:
    """Adding zero, at one layer and at all layers, gives the unsteered model."""
    prompt = bench.prompts[1]
    everywhere = [bench.push(layer, 0.0) for layer in range(bench.engine.n_layers)]
    plain, *zero = bench.engine.run(
        [Ask(prompt), Ask(prompt, [bench.push(bench.middle, 0.0)]), Ask(prompt, everywhere)]
    )
    return _equal(
        max(difference(plain, answer) for answer in zero), bench.tolerance.logprob, "like the unsteered reply"
    )


def operations_and_scopes(bench: Bench) -> Finding:
    """Every operation and scope, all in one batch: each differs from the baseline and equals the reference."""
    cases = cases_of(bench)
    asks = [Ask(bench.prompts[0], terms, max_tokens=6) for terms in cases.values()]
    plain, *answers = bench.engine.run([Ask(bench.prompts[0], max_tokens=6), *asks])
    effects = {name: effect(plain, answer) for name, answer in zip(cases, answers, strict=True)}
    idle = [name for name, moved in effects.items() if moved <= bench.tolerance.effect]
    if idle:
        return Finding("failed", f"without effect: {', '.join(idle)}")
    if bench.reference is None:
        return Finding("skipped", f"{len(cases)} cases take effect; not compared: {bench.no_reference}")
    errors = {
        name: bench.against_reference(ask, answer) for name, ask, answer in zip(cases, asks, answers, strict=True)
    }
    worst = max(errors, key=lambda name: errors[name])
    return _judged(
        errors[worst] <= bench.tolerance.logprob,
        f"like transformers in float32 with hooks, {len(cases)} cases: difference {errors[worst]:.2g} in the worst "
        f"({worst}), allowed {bench.tolerance.logprob:g}",
    )


def cases_of(bench: Bench) -> dict[str, list[TermSpec]]:
    """Name -> terms: every operation, every scope, terms that act one after another, every layer."""
    p, push = bench.projection, bench.push
    layer = bench.middle
    third = max(1, len(bench.prompts[0]) // 3)
    return {
        "add": [push(layer)],
        "ablate": [bench.term("ablate")],
        "set": [bench.term("set", 0.3 * p)],
        "scale": [bench.term("scale", 0.2)],
        "floor": [bench.term("floor", 2.5 * p)],
        "ceiling": [bench.term("ceiling", 0.4 * p)],
        "add, norm kept": [push(layer, preserve_norm=True)],
        "scope prompt": [push(layer, 1.0, scope="prompt")],
        "scope generated": [push(layer, scope="generated")],
        "scope last_prompt": [push(layer, scope="last_prompt")],
        "scope positions": [push(layer, 1.0, scope=[third, 3 * third])],
        "three terms in order": [bench.term("ablate"), push(layer), bench.term("scale", 0.5, scope="generated")],
        "every layer": [bench.term("ablate", layer=each) for each in range(bench.engine.n_layers)],
    }


def neighbours_untouched(bench: Bench) -> Finding:
    """Unsteered requests among steered ones reply as they do alone."""
    alone = bench.engine.run([Ask(prompt) for prompt in bench.prompts])
    layers = [i % bench.engine.n_layers for i in range(len(bench.prompts))]
    mixed = [Ask(prompt, [bench.push(layer)]) for layer, prompt in zip(layers, bench.prompts, strict=True)]
    pairs = [ask for steered, prompt in zip(mixed, bench.prompts, strict=True) for ask in (steered, Ask(prompt))]
    among = bench.engine.run(pairs)[1::2]
    worst = max(difference(one, other) for one, other in zip(alone, among, strict=True))
    return _equal(worst, bench.tolerance.logprob, f"{len(alone)} unsteered requests, alone and among steered ones")


def many_configurations(bench: Bench) -> Finding:
    """Distinct configurations in one batch: each replies as in a batch of its own, and none like another."""
    n = 16 if bench.quick else MAX_CONFIGURATIONS
    asks = [
        Ask(
            bench.prompts[i % len(bench.prompts)],
            [bench.push(i * bench.engine.n_layers // n, 0.3 + 0.6 * i / n)],
            max_tokens=4,
        )
        for i in range(n)
    ]
    together = bench.engine.run(asks)
    picked = range(0, n, max(1, n // 4))
    alone = {i: bench.engine.run([asks[i]])[0] for i in picked}
    distinct = len({str(answer.logprobs) for answer in together})
    if distinct < n:
        return Finding("failed", f"{n} configurations gave {distinct} different replies")
    worst = max(difference(together[i], alone[i]) for i in picked)
    return _equal(worst, bench.tolerance.logprob, f"{n} configurations in one batch, {len(alone)} of them again alone")


def capture_equals_hidden_states(bench: Bench) -> Finding:
    """Pooled captures of all layers equal transformers' hidden states, steered too."""
    if bench.reference is None:
        return Finding("skipped", bench.no_reference)
    prompt = bench.prompts[2]
    spec = CaptureSpec(positions=[Positions.parse(text) for text in POOLS])
    (answer,) = bench.engine.run([Ask(prompt, capture=spec)])
    if answer.capture is None:
        return Finding("failed", "nothing was captured")
    seen = [*prompt, *answer.token_ids[:-1]]
    streams = bench.reference.streams(seen).numpy()
    n = len(prompt)
    worst = 0.0
    for pool, at in enumerate((slice(n), slice(n - 1, n), slice(n, None), slice(4, None))):
        expected = streams[:, at].mean(1)
        error = np.linalg.norm(answer.capture.mean[pool] - expected, axis=-1)
        worst = max(worst, float((error / np.linalg.norm(expected, axis=-1)).max()))
    return _equal(
        worst,
        bench.tolerance.capture,
        f"like hidden states in float32, {len(POOLS)} pools on {len(streams)} layers, relative",
    )


def prefix_cache_does_not_leak(bench: Bench) -> Finding:
    """Cached blocks change no reply, and steered ones serve no other configuration."""
    block = bench.engine.block_size
    if block is None:
        return Finding("skipped", "vLLM runs this model without a prefix cache")
    unit = bench.engine.encode(LONG_TEXT)
    prompt = (unit * (1 + 2 * block // len(unit)))[: block + block // 2]
    generated, everywhere = [bench.push(bench.middle, scope="generated")], [bench.push(bench.middle)]
    story: list[tuple[list[TermSpec], bool]] = [
        ([], True),
        (generated, True),
        (everywhere, False),
        ([bench.push(bench.middle, -0.6)], False),
        (everywhere, True),
        ([], True),
    ]
    shared = []
    for i, (terms, may_share) in enumerate(story):
        (cached,) = bench.engine.run([Ask(prompt, terms, max_tokens=3, reads_cache=True)])
        (fresh,) = bench.engine.run([Ask(prompt, terms, max_tokens=3, salt=f"verify {i}")])
        worst = difference(cached, fresh)
        if worst > bench.tolerance.logprob:
            return Finding("failed", f"request {i + 1} differs by {worst:.2g} from one that reads no cache")
        if cached.cached and not may_share:
            return Finding("failed", f"request {i + 1} read {cached.cached} tokens of another configuration")
        shared.append(cached.cached)
    return Finding(
        "ok",
        f"{len(prompt)} tokens, read from the cache: {shared[1]} by steering of generated tokens after the baseline, "
        f"{shared[2]} and {shared[3]} by new configurations, {shared[4]} by one that comes again",
    )


def _judged(passed: bool, detail: str) -> Finding:
    return Finding("ok" if passed else "failed", detail)


def _equal(worst: float, limit: float, what: str) -> Finding:
    return _judged(worst <= limit, f"{what}: difference {worst:.2g}, allowed {limit:g}")


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)
