"""The checks: each takes the bench, runs the engine and reports its finding in one line.

Each also shows that it could have failed: where the steered replies in it do not move, it fails, whatever else is equal.
"""

import statistics
from collections.abc import Callable

import numpy as np
from trait_core.positions import Positions

from trait_service.engine.spec import CaptureSpec, TermSpec
from trait_service.verify.bench import FIRST_POSITIONS, LONG_TEXT, Bench, prompt_of
from trait_service.verify.findings import Finding, judged, numbers
from trait_service.verify.judging import distance
from trait_service.verify.probe import Answer, Ask

POOLS = ("prompt[:]", "prompt[-1]", "response[:]", f"all[{FIRST_POSITIONS}:]")
MAX_CONFIGURATIONS = 64

Check = Callable[[Bench], Finding]


def unsteered_equals_reference(bench: Bench) -> Finding:
    """Unsteered replies equal the reference's: what is found here is the noise of all other checks."""
    if bench.reference is None:
        return Finding(status="skipped", detail=bench.no_reference)
    noise, allowed = bench.scale.noise, bench.precision.noise * bench.scale.spread
    return judged(
        noise <= allowed,
        compared="the engine with transformers in float32, both unsteered",
        detail=f"difference {noise:.2g} nats a token, allowed {allowed:.2g} "
        f"({bench.precision.noise:.1%} of the spread of the ten likeliest tokens)",
        difference=noise,
        allowed=allowed,
    )


def steering_takes_effect(bench: Bench) -> Finding:
    """An addition at the first, a middle and the last layer moves the reply, and the worker counts its positions."""
    prompt = bench.prompts[0]
    asks = [Ask(prompt, [bench.push(layer)]) for layer in bench.ends]
    plain, *steered = bench.engine.run([Ask(prompt), *asks])
    expected = len(prompt), len(plain.token_ids) - 1
    counts = [answer.report and (answer.report.steered_prompt, answer.report.steered_generated) for answer in steered]
    if any(count != expected for count in counts):
        return Finding(status="failed", detail=f"(prompt, generated) positions steered: {counts}, expected {expected}")
    if bench.reference is None:
        moved = [distance(plain, answer) for answer in steered]
        enough = all(bench.scale.decides(each) for each in moved)
        compared, expectation = "the steered engine with the unsteered one", "more than noise and 2 % of the spread"
    else:
        gaps = [bench.against_reference(ask, answer) for ask, answer in zip(asks, steered, strict=True)]
        moved = [gap.moved for gap in gaps]
        enough = all(bench.scale.decides(gap.effect) and gap.moved >= gap.effect / 2 for gap in gaps)
        compared = "how far the engine and the reference move"
        expectation = f"half of {numbers([gap.effect for gap in gaps])} by which the reference moves"
    return judged(
        enough,
        compared=compared,
        detail=f"on layers {', '.join(map(str, bench.ends))} logprobs move by {numbers(moved)} at a dose of "
        f"{bench.dose:g}; expected: at least {expectation}",
        effect=min(moved),
    )


def coefficient_zero_is_a_no_op(bench: Bench) -> Finding:
    """Adding zero, at one layer and at all layers, gives the unsteered model."""
    prompt = bench.prompts[1]
    everywhere = [bench.push(layer, 0.0) for layer in range(bench.engine.n_layers)]
    terms: list[list[TermSpec]] = [[bench.push(bench.middle)], [bench.push(bench.middle, 0.0)], everywhere]
    plain, steered, *zero = bench.engine.run([Ask(prompt), *(Ask(prompt, each) for each in terms)])
    return _equal(
        bench,
        max(distance(plain, answer) for answer in zero),
        distance(plain, steered),
        "replies with coefficient 0 (one layer, all layers) with the unsteered reply",
    )


def neighbours_untouched(bench: Bench) -> Finding:
    """Unsteered requests among steered ones reply as they do alone."""
    alone = bench.engine.run([Ask(prompt) for prompt in bench.prompts])
    layers = [i % bench.engine.n_layers for i in range(len(bench.prompts))]
    mixed = [Ask(prompt, [bench.push(layer)]) for layer, prompt in zip(layers, bench.prompts, strict=True)]
    answers = bench.engine.run(
        [ask for steered, prompt in zip(mixed, bench.prompts, strict=True) for ask in (steered, Ask(prompt))]
    )
    steered, unsteered = answers[0::2], answers[1::2]
    return _equal(
        bench,
        max(map(distance, alone, unsteered)),
        statistics.fmean(map(distance, alone, steered)),
        f"{len(alone)} unsteered requests among steered ones with the same without them",
    )


def many_configurations(bench: Bench) -> Finding:
    """Distinct configurations in one batch: each moves its reply, replies as in a batch of its own, and none like another."""
    n = 16 if bench.quick else MAX_CONFIGURATIONS
    layers = [i * bench.engine.n_layers // n for i in range(n)]
    terms = [[bench.push(layer, 0.75 + 0.75 * i / n)] for i, layer in enumerate(layers)]
    asks = [Ask(bench.prompts[i % len(bench.prompts)], each, max_tokens=4) for i, each in enumerate(terms)]
    together = bench.engine.run(asks)
    plain = bench.engine.run([Ask(prompt, max_tokens=4) for prompt in bench.prompts])
    moved = [distance(plain[i % len(plain)], answer) for i, answer in enumerate(together)]
    idle = sum(effect <= 2 * bench.scale.noise for effect in moved)
    distinct = len({str(answer.logprobs) for answer in together})
    if idle or distinct < n:
        return Finding(
            status="failed",
            compared="every configuration with the unsteered reply, and with the others",
            detail=f"{n} configurations gave {distinct} different replies; {idle} do not move by more than the noise",
            effect=min(moved),
        )
    picked = range(0, n, max(1, n // 4))
    found = {i: _excess(bench, asks[i], together[i], moved[i]) for i in picked}
    _, difference, allowed, effect = max(found.values())
    ways = "alone" if bench.reference is None else "alone, and with transformers in float32 with hooks"
    return judged(
        difference <= allowed and bench.scale.decides(effect),
        compared=f"{len(picked)} of {n} configurations in one batch with the same {ways}",
        detail=f"difference {difference:.2g}, allowed {allowed:.2g} where steering moves by {effect:.2g}",
        difference=difference,
        allowed=allowed,
        effect=effect,
    )


def _excess(bench: Bench, ask: Ask, answer: Answer, moved: float) -> tuple[float, float, float, float]:
    """`(difference / allowed, difference, allowed, effect)` of one request of a batch: the worse of two comparisons."""
    pairs = [(distance(answer, bench.engine.run([ask])[0]), moved)]
    if bench.reference is not None:
        gap = bench.against_reference(ask, answer)
        pairs.append((gap.difference, gap.effect))
    return max(
        (difference / bench.scale.allowed(effect), difference, bench.scale.allowed(effect), effect)
        for difference, effect in pairs
    )


def capture_equals_hidden_states(bench: Bench) -> Finding:
    """Pooled captures of all layers equal transformers' hidden states, and no other layer's."""
    if bench.reference is None:
        return Finding(status="skipped", detail=bench.no_reference)
    prompt = bench.prompts[2]
    spec = CaptureSpec(positions=[Positions.parse(text) for text in POOLS])
    (answer,) = bench.engine.run([Ask(prompt, capture=spec)])
    if answer.capture is None:
        return Finding(status="failed", detail="nothing was captured")
    streams = bench.reference.streams([*prompt, *answer.token_ids[:-1]]).numpy()
    n = len(prompt)
    excess, difference, allowed = max(
        _capture_excess(bench, answer.capture.mean[pool], streams[:, at].mean(1), apart=at.start is not None)
        for pool, at in enumerate((slice(n), slice(n - 1, n), slice(n, None), slice(FIRST_POSITIONS, None)))
    )
    return judged(
        excess <= 1,
        compared=f"captured means with those of transformers in float32, {len(POOLS)} pools on {len(streams)} layers",
        detail=f"difference {difference:.2g} relative to the mean's length, allowed {allowed:.2g}",
        difference=difference,
        allowed=allowed,
    )


def _capture_excess(
    bench: Bench, captured: np.ndarray, expected: np.ndarray, *, apart: bool
) -> tuple[float, float, float]:
    """`(difference / allowed, difference, allowed)` of the worst layer of one pool, relative to the mean's length.

    Args:
        bench: The bench, for its limit.
        captured: `(n_layers, d_model)` float32.
        expected: The same, of the reference.
        apart: Allow half the distance to the nearest other layer at most. Not for pools with the first positions, whose
            large activations are nearly the same on all layers.
    """
    length = np.linalg.norm(expected, axis=-1)
    error = np.linalg.norm(captured - expected, axis=-1) / length
    allowed = np.full(len(error), bench.precision.capture)
    if apart and len(expected) > 1:
        step = np.linalg.norm(np.diff(expected, axis=0), axis=-1)
        nearest = np.minimum(np.append(step, np.inf), np.insert(step, 0, np.inf)) / length
        allowed = np.minimum(allowed, nearest / 2)
    error = np.nan_to_num(error, nan=np.inf)
    excess = error / np.maximum(allowed, np.finfo(np.float32).tiny)
    worst = int(excess.argmax())
    return float(excess[worst]), float(error[worst]), float(allowed[worst])


def prefix_cache_does_not_leak(bench: Bench) -> Finding:
    """Cached blocks change no reply, and steered ones serve no other configuration."""
    block = bench.engine.block_size
    if block is None:
        return Finding(status="skipped", detail="vLLM runs this model without a prefix cache")
    length = block + block // 2
    if length + 3 > bench.engine.max_model_len:
        return Finding(
            status="skipped",
            detail=f"a block of the prefix cache holds {block} tokens, and sequences end at {bench.engine.max_model_len}",
        )
    unit = prompt_of(bench.engine, LONG_TEXT, 0)
    prompt = (unit * (1 + length // len(unit)))[:length]
    everywhere = [bench.push(bench.middle)]
    story: list[tuple[list[TermSpec], bool]] = [
        ([], True),
        ([bench.push(bench.middle, scope="generated")], True),
        (everywhere, False),
        ([bench.push(bench.middle, -1)], False),
        (everywhere, True),
        ([], True),
    ]
    differences, shared, replies = [], [], []
    for i, (terms, may_share) in enumerate(story):
        (cached,) = bench.engine.run([Ask(prompt, terms, max_tokens=3, reads_cache=True)])
        (fresh,) = bench.engine.run([Ask(prompt, terms, max_tokens=3, salt=f"verify {i}")])
        if cached.cached and not may_share:
            detail = f"request {i + 1} read {cached.cached} tokens of another configuration"
            return Finding(status="failed", detail=detail)
        differences.append(distance(cached, fresh))
        shared.append(cached.cached)
        replies.append(fresh)
    plain, generated, forwards, backwards = replies[:4]
    return _equal(
        bench,
        max(differences),
        min(distance(plain, generated), distance(plain, forwards), distance(forwards, backwards)),
        f"{len(story)} requests of {len(prompt)} tokens with the same requests where nothing is cached",
        f"; read from the cache: {shared[1]} tokens by steering of generated tokens after the baseline, {shared[2]} and "
        f"{shared[3]} by new configurations, {shared[4]} by one that comes again",
    )


def _equal(bench: Bench, difference: float, effect: float, compared: str, more: str = "") -> Finding:
    """Judge replies of the engine that should be equal, beside an effect in the same comparison."""
    allowed = bench.scale.allowed(effect)
    decides = bench.scale.decides(effect)
    shows = "" if decides else ", too little to show anything"
    return judged(
        difference <= allowed and decides,
        compared=compared,
        detail=f"difference {difference:.2g}, allowed {allowed:.2g} where steering moves by {effect:.2g}{shows}{more}",
        difference=difference,
        allowed=allowed,
        effect=effect,
    )
