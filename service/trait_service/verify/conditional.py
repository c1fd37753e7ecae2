"""The checks of hook points and of gates: where in a block a term acts, and under which condition."""

import numpy as np
import torch
from trait_core.schema import RESID_POST, Hold, HookPoint

from trait_service.engine.spec import GateSpec, TermSpec
from trait_service.verify.bench import Bench
from trait_service.verify.findings import Finding
from trait_service.verify.judging import distance
from trait_service.verify.operations import against_reference
from trait_service.verify.probe import Answer, Ask
from trait_service.verify.reference import NoReferenceError
from trait_service.verify.reference_gates import open_at

FAR = 1e6
"""A bound that no projection is past, residual units."""
N_TOKENS = 6


def hook_points_equal_reference(bench: Bench) -> Finding:
    """Terms at each further hook point of the engine: each moves the model, and equals the reference."""
    further = [at for at in bench.engine.hook_points if at != RESID_POST]
    if not further:
        return Finding(status="skipped", detail="none beside resid_post is known for this architecture (--hook-points)")
    if bench.reference is not None:
        try:
            bench.reference.check_branches(further)
        except NoReferenceError as error:
            return Finding(status="skipped", detail=str(error))
    cases = {name: terms for at in further for name, terms in _branch_cases(bench, at).items()}
    return against_reference(bench, cases, needed=[f"add at {at}" for at in further])


def _branch_cases(bench: Bench, at: HookPoint) -> dict[str, list[TermSpec]]:
    layers = range(bench.engine.n_layers)
    return {
        f"add at {at}": [bench.push(bench.middle, 2, at=at)],
        f"add at {at} of the last layer": [bench.push(bench.engine.n_layers - 1, 2, at=at)],
        f"ablate at {at} of every layer": [bench.term("ablate", layer=layer, at=at) for layer in layers],
        f"{at} before the stream": [bench.push(bench.middle, at=at), bench.term("scale", 0.5)],
    }


def gates_open_as_in_reference(bench: Bench) -> Finding:
    """Gated additions: each acts at the positions that the reference's streams say, and equals the reference."""
    prompt = bench.prompts[0]
    shut, always = (_gated(bench, "token", above=bound) for bound in (FAR, -FAR))
    asks = [Ask(prompt, terms, max_tokens=N_TOKENS) for terms in ([], shut, always, _ungated(always))]
    plain, closed, opened, ungated = bench.engine.run(asks)
    effect = distance(plain, ungated)
    difference, allowed = max(distance(plain, closed), distance(ungated, opened)), bench.scale.allowed(effect)
    if difference > allowed or _acted(closed) != (0, 0) or _acted(opened) != (len(prompt), N_TOKENS - 1):
        return Finding(
            status="failed",
            compared="a gate that is never open with the unsteered reply, and one that always is with the ungated reply",
            detail=f"difference {difference:.2g}, allowed {allowed:.2g}; (prompt, generated) positions at which they acted: "
            f"{_acted(closed)} and {_acted(opened)}, expected (0, 0) and {(len(prompt), N_TOKENS - 1)}",
            difference=difference,
            allowed=allowed,
            effect=effect,
        )
    if bench.reference is None:
        return Finding(
            status="skipped" if bench.scale.decides(effect) else "failed",
            detail=f"an open gate moves by {effect:.2g}, a shut one does not; with no reference: {bench.no_reference}",
            effect=effect,
        )
    cases = _cases(bench)
    expected = _expected_positions(bench, cases)
    wrong = {name: (acted, low, high) for name, (acted, low, high) in expected.items() if not _within(acted, low, high)}
    if wrong:
        name, (acted, low, high) = next(iter(wrong.items()))
        return Finding(
            status="failed",
            compared="(prompt, generated) positions at which gated terms acted with those of transformers in float32",
            detail=f"{name}: {acted}, expected {low}" + (f" to {high}" if low != high else ""),
        )
    # Where a position is so close to the bound that rounding decides, the two may differ there.
    sure = {name: cases[name] for name, (_, low, high) in expected.items() if low == high}
    return against_reference(bench, sure, needed=[])


def _cases(bench: Bench) -> dict[str, list[TermSpec]]:
    """Name -> a gated addition whose bound no position of the prompt is close to."""
    assert bench.reference is not None
    layer = _gate_layer(bench)
    projections = bench.reference.streams(bench.prompts[0])[layer] @ torch.from_numpy(bench.slanted.array)
    between = _widest_gap(projections.numpy())
    mean, reach = float(projections.mean()), float(bench.norms[layer]) / 4
    cases = {
        "token, above": _gated(bench, "token", above=between),
        "token, below": _gated(bench, "token", below=between),
    }
    if bench.middle > 0:
        cases |= {
            "latch": _gated(bench, "latch", above=_record(projections.numpy())),
            "prompt, open": _gated(bench, "prompt", above=mean - reach),
            "prompt, below and open": _gated(bench, "prompt", below=mean + reach),
        }
    return cases


def _gate_layer(bench: Bench) -> int:
    return max(0, bench.middle - 1)


def _gated(bench: Bench, hold: Hold, above: float | None = None, below: float | None = None) -> list[TermSpec]:
    gate = GateSpec(layer=_gate_layer(bench), direction=bench.slanted.sha256, hold=hold, above=above, below=below)
    return [bench.push(bench.middle, 2, when=gate)]


def _ungated(terms: list[TermSpec]) -> list[TermSpec]:
    return [term.model_copy(update={"when": None}) for term in terms]


def _acted(answer: Answer) -> tuple[int, int] | None:
    return answer.report.acted[0] if answer.report is not None and answer.report.acted else None


def _expected_positions(
    bench: Bench, cases: dict[str, list[TermSpec]]
) -> dict[str, tuple[tuple[int, int] | None, tuple[int, int], tuple[int, int]]]:
    """Name -> (prompt, generated) positions at which the engine acted, and the fewest and the most that the reference allows.

    They differ where the engine's precision decides on which side of the bound a projection is.
    """
    assert bench.reference is not None
    prompt, unit = bench.prompts[0], torch.from_numpy(bench.slanted.array)
    answers = bench.engine.run([Ask(prompt, terms, max_tokens=N_TOKENS) for terms in cases.values()])
    found = {}
    for (name, (term,)), answer in zip(cases.items(), answers, strict=True):
        assert term.when is not None, "every case has a gate"
        streams = bench.reference.streams([*prompt, *answer.token_ids[:-1]])[term.when.layer]
        margin = bench.precision.capture * streams.norm(dim=-1)
        masks = [open_at(term.when, streams @ unit + moved, len(prompt)) for moved in (-margin, margin)]
        of_prompt = sorted(int(mask[: len(prompt)].sum()) for mask in masks)
        of_reply = sorted(int(mask[len(prompt) :].sum()) for mask in masks)
        found[name] = _acted(answer), (of_prompt[0], of_reply[0]), (of_prompt[1], of_reply[1])
    return found


def _within(acted: tuple[int, int] | None, low: tuple[int, int], high: tuple[int, int]) -> bool:
    return acted is not None and all(a <= b <= c for a, b, c in zip(low, acted, high, strict=True))


def _widest_gap(values: np.ndarray) -> float:
    """The middle of the widest gap in the middle half of some numbers."""
    middle = np.sort(values)[len(values) // 4 : max(3 * len(values) // 4, len(values) // 4 + 2)]
    at = int(np.diff(middle).argmax())
    return float(middle[at] + middle[at + 1]) / 2


def _record(values: np.ndarray) -> float:
    """A bound that the last number above all before it is the first to pass; below the first one, where that is the largest."""
    highest = np.maximum.accumulate(values)
    rises = np.flatnonzero(np.diff(highest) > 0)
    if not len(rises):
        return float(values[0]) - 1.0
    return float(highest[rises[-1]] + highest[rises[-1] + 1]) / 2
