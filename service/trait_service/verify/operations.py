"""The check of the operations: every one of them, every scope, and their combinations, against the reference."""

from collections.abc import Collection

from trait_core.positions import Positions

from trait_service.engine.spec import TermSpec
from trait_service.verify.bench import Bench
from trait_service.verify.findings import Finding, judged, named
from trait_service.verify.judging import distance
from trait_service.verify.probe import Ask


def operations_and_scopes(bench: Bench) -> Finding:
    """Every operation and scope, all in one batch: each moves the model and equals the reference."""
    return against_reference(bench, cases_of(bench), needed=["add"])


def against_reference(bench: Bench, cases: dict[str, list[TermSpec]], needed: Collection[str]) -> Finding:
    """Run cases in one batch, and compare each with the reference; without one: see whether each moves the model.

    Args:
        bench: The bench.
        cases: Name -> terms.
        needed: Cases that must be large enough to decide; of all, half must be.
    """
    asks = [Ask(bench.prompts[0], terms, max_tokens=6) for terms in cases.values()]
    plain, *answers = bench.engine.run([Ask(bench.prompts[0], max_tokens=6), *asks])
    if bench.reference is None:
        return _cases_move(bench, {name: distance(plain, a) for name, a in zip(cases, answers, strict=True)}, needed)
    gaps = {name: bench.against_reference(ask, a) for name, ask, a in zip(cases, asks, answers, strict=True)}
    excess = {name: gap.difference / bench.scale.allowed(gap.effect) for name, gap in gaps.items()}
    worst = max(excess, key=lambda name: excess[name])
    wrong = [name for name in cases if excess[name] > 1]
    unclear = [name for name, gap in gaps.items() if name not in wrong and not bench.scale.decides(gap.effect)]
    gap, allowed = gaps[worst], bench.scale.allowed(gaps[worst].effect)
    return judged(
        not wrong and 2 * len(unclear) <= len(cases) and not set(needed) & set(unclear),
        compared=f"the engine with transformers in float32 with hooks, {len(cases)} cases",
        detail=f"difference {gap.difference:.2g} in the worst ({worst}), which moves the reference by {gap.effect:.2g}; "
        f"allowed {allowed:.2g}" + named("wrong", wrong) + named("too small to decide", unclear),
        difference=gap.difference,
        allowed=allowed,
        effect=gap.effect,
    )


def _cases_move(bench: Bench, moved: dict[str, float], needed: Collection[str]) -> Finding:
    idle = [name for name, effect in moved.items() if not bench.scale.decides(effect)]
    sound = 2 * len(idle) <= len(moved) and not set(needed) & set(idle)
    return Finding(
        status="skipped" if sound else "failed",
        compared="steered replies with the unsteered one",
        detail=f"{len(moved) - len(idle)} of {len(moved)} cases take effect{named('not', idle)}; with no reference: "
        f"{bench.no_reference}",
        effect=min(moved.values()),
    )


def cases_of(bench: Bench) -> dict[str, list[TermSpec]]:
    """Name -> terms: every operation, every scope, terms that act one after another, every layer."""
    p, push = bench.projection, bench.push
    layer = bench.middle
    reach = bench.dose * float(bench.norms[layer])
    third = max(1, len(bench.prompts[0]) // 3)
    return {
        "add": [push(layer)],
        "ablate": [bench.term("ablate")],
        "set": [bench.term("set", p - reach)],
        "scale": [bench.term("scale", 1 - reach / p)],
        "floor": [bench.term("floor", p + reach)],
        "ceiling": [bench.term("ceiling", p - reach)],
        "replace": [bench.term("replace", float(bench.norms[layer]), scope="generated")],
        "rotate": [bench.term("rotate", 20.0)],
        "add, norm kept": [push(layer, preserve_norm=True)],
        "scope prompt": [push(layer, 2, scope="prompt")],
        "scope generated": [push(layer, scope="generated")],
        "scope last_prompt": [push(layer, 2, scope="last_prompt")],
        "scope positions": [push(layer, 2, scope=[third, 3 * third])],
        "scope selector": [push(layer, 2, scope=Positions.parse("prompt[-2:], response[::2]"))],
        "three terms in order": [bench.term("ablate"), push(layer), bench.term("scale", 0.5, scope="generated")],
        "every layer": [bench.term("ablate", layer=each) for each in range(bench.engine.n_layers)],
    }
