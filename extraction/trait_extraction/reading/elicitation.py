"""The elicitation check: whether generated replies show the trait on one side and not on the other.

A model that does not do as its system prompt says gives two sides that differ in the system prompt alone, and a vector of
that. So the trait's own metric must tell the sides apart, or a judge must; else the replies are refused.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from trait_client.scoring.lexical import parse_metric
from trait_core.errors import TraitError
from trait_core.schema import Elicitation
from trait_core.statistics import auc
from trait_core.storage import json_sha256

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.scenarios import MIN_SCENARIOS
from trait_extraction.reading.generation import Replies
from trait_extraction.reading.stage_store import KeyedLines

MIN_AUC = 0.8
"""P(a positive reply scores above a negative one), ties counted half."""
MIN_JUDGED_POSITIVE, MAX_JUDGED_NEGATIVE = 60.0, 40.0
"""A pair is kept where a judge scores its positive reply at least, its negative one at most so."""

JudgeScore = Callable[[str, str, str], float]
"""`(trait, prompt, reply) -> 0 to 100`, how much the reply shows the trait. An exception ends the run; what was scored
before is kept."""


class ElicitationError(TraitError):
    """Generated replies do not show what was asked for, or nothing can tell whether they do."""


@dataclass(frozen=True)
class Judge:
    """A judge, where one is configured.

    Args:
        name: Says which one it is, model and rubric's version: scores of another judge are others.
        score: Asks it.
    """

    name: str
    score: JudgeScore


def vet(
    dataset: TraitDataset,
    replies: Replies,
    judge: Judge | None = None,
    scores: KeyedLines | None = None,
    *,
    unvetted: bool = False,
) -> tuple[list[int], Elicitation]:
    """Which scenarios are kept, and what was found.

    Pairs with an empty reply are dropped. Of the others the metric's AUC is measured, where the trait has a metric; a judge,
    where there is one, drops the pairs that it does not place, and its AUC counts where there is no metric.

    Args:
        dataset: The instructed scenarios.
        replies: What the model made of them.
        judge: None: no judge is configured.
        scores: What it holds the judge is not asked again.
        unvetted: Go on where the check fails, or where there is nothing to check with. It is recorded.

    Returns:
        Indices of scenarios, and the record for the vector file.

    Raises:
        ElicitationError: The sides are not told apart, or nothing can tell, and `unvetted` is not set.
    """
    spoken = [i for i in range(dataset.n_scenarios) if replies.positive[i].strip() and replies.negative[i].strip()]
    if len(spoken) < MIN_SCENARIOS:
        raise ElicitationError(
            f"trait {dataset.trait!r}: {len(spoken)} of {dataset.n_scenarios} pairs have a reply on both sides; "
            f"{MIN_SCENARIOS} at least are needed: give --max-tokens more room, or another model"
        )
    high, low = (
        (replies.positive, replies.negative)
        if dataset.steering.direction == "positive"
        else (replies.negative, replies.positive)
    )
    found = Elicitation(n_generated=dataset.n_scenarios, n_kept=len(spoken), replies_digest=replies.digest)
    kept = spoken
    if judge is not None:
        judged = [[_judged(dataset, judge, scores, i, side[i]) for i in spoken] for side in (high, low)]
        passed = [p >= MIN_JUDGED_POSITIVE and q <= MAX_JUDGED_NEGATIVE for p, q in zip(*judged, strict=True)]
        kept = [i for i, one in zip(spoken, passed, strict=True) if one]
        found = _measured(found.model_copy(update={"judged_by": judge.name}), "judge", judge.name, *judged)
    if dataset.steering.metric is not None:
        metric = parse_metric(dataset.steering.metric)
        scored = [[metric.score(side[i]) for i in spoken] for side in (high, low)]
        found = _measured(found, "metric", metric.kind, *scored)
    fault = _fault(dataset, found, judge, kept)
    if fault is not None and not unvetted:
        raise ElicitationError(fault)
    if fault is not None:  # the judge's verdict is a fault, too: all pairs are used, as they are
        kept = spoken
    return kept, found.model_copy(update={"n_kept": len(kept), "passed": fault is None, "fault": fault})


def check_can_be_vetted(dataset: TraitDataset, judge: Judge | None, *, unvetted: bool) -> None:
    """Refuse what could not pass in any case, before a reply is generated.

    Raises:
        ElicitationError: The trait has no metric, there is no judge, and `unvetted` is not set.
    """
    if dataset.steering.metric is not None:
        parse_metric(dataset.steering.metric)
    elif judge is None and not unvetted:
        raise ElicitationError(_nothing_to_check_with(dataset))


def elicitation_line(found: Elicitation) -> str:
    """What the check found, in one clause."""
    kept = f"{found.n_kept} of {found.n_generated} pairs kept"
    if found.auc is None:
        return f"unvetted: nothing tells whether the replies show the trait; {kept}"
    verdict = "passed" if found.passed else "FAILED, and used all the same (unvetted)"
    return (
        f"elicitation {verdict}: AUC {found.auc:.2f} by the {found.checked_by} {found.checked_with} (at least "
        f"{MIN_AUC:g}; means {found.mean_high:.0f} and {found.mean_low:.0f}); {kept}"
    )


def _measured(found: Elicitation, by: str, kind: str, high: list[float], low: list[float]) -> Elicitation:
    return found.model_copy(
        update={
            "checked_by": by,
            "checked_with": kind,
            "auc": auc(np.array(high, np.float64), np.array(low, np.float64)),
            "min_auc": MIN_AUC,
            "mean_high": float(np.mean(high)),
            "mean_low": float(np.mean(low)),
        }
    )


def _fault(dataset: TraitDataset, found: Elicitation, judge: Judge | None, kept: list[int]) -> str | None:
    trait = f"trait {dataset.trait!r}"
    if found.auc is None:
        return _nothing_to_check_with(dataset)
    if found.auc < MIN_AUC:
        return (
            f"{trait}: the generated replies do not show the trait: the {found.checked_by} {found.checked_with} tells "
            f"the two sides apart with AUC {found.auc:.2f}, and {MIN_AUC:g} is needed (mean score {found.mean_high:.0f} "
            f"against {found.mean_low:.0f}, 0 to 100). Use a larger instruct model, plainer system prompts or --style "
            "written; --unvetted uses the replies all the same, and the vector file records it"
        )
    if judge is not None and len(kept) < MIN_SCENARIOS:
        return (
            f"{trait}: the judge {judge.name} keeps {len(kept)} of {dataset.n_scenarios} generated pairs (positive at "
            f"least {MIN_JUDGED_POSITIVE:g}, negative at most {MAX_JUDGED_NEGATIVE:g}), and {MIN_SCENARIOS} are needed"
        )
    return None


def _nothing_to_check_with(dataset: TraitDataset) -> str:
    return (
        f"trait {dataset.trait!r}: generated replies are unvetted: the trait has no metric in steering.json and no judge "
        "is configured, so that nothing tells whether the model does as its system prompts say. Use --style written, or "
        "pass --unvetted, which the vector file records, and read the replies in <out>/.stages yourself"
    )


def _judged(dataset: TraitDataset, judge: Judge, scores: KeyedLines | None, i: int, reply: str) -> float:
    prompt = dataset.positive[i].prompt
    key = json_sha256([judge.name, dataset.trait, dataset.definition, prompt, reply])
    stored = None if scores is None else scores.get(key)
    if stored is not None:
        return float(stored["score"])
    score = float(judge.score(dataset.trait, prompt, reply))
    if not 0 <= score <= 100:
        raise ElicitationError(f"the judge {judge.name} scored a reply {score}: a score lies between 0 and 100")
    if scores is not None:
        scores.put(key, {"score": score})
    return score
