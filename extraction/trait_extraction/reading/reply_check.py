"""The check of generated replies: do they show the trait on one side and not on the other?

A model that does not follow its system prompt gives two sides that differ in the system prompt alone, and a vector of that.
So the trait's own metric must separate the sides, or a judge must; else the replies are refused.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from trait_client.scoring.lexical import parse_metric
from trait_core.errors import TraitError
from trait_core.schema import Elicitation
from trait_core.statistics import auc
from trait_core.storage import json_sha256

from trait_extraction.data.datasets import Kept, TraitDataset
from trait_extraction.data.scenarios import MIN_SCENARIOS
from trait_extraction.reading.generation import Replies
from trait_extraction.reading.stage_store import KeyedLines

MIN_AUC = 0.8
"""Least P(a positive reply scores above a negative one), ties counted half."""
MIN_JUDGED_POSITIVE, MAX_JUDGED_NEGATIVE = 60.0, 40.0
"""A pair is kept if a judge scores its positive reply at least 60 and its negative reply at most 40."""

T = TypeVar("T")

JudgeScore = Callable[[str, str, str], float]
"""`(trait, prompt, reply) -> 0 to 100`, how much the reply shows the trait. An exception ends the run; earlier scores
are kept."""


class ElicitationError(TraitError):
    """Generated replies do not show the trait, or nothing can tell whether they do."""


@dataclass(frozen=True)
class ReplyJudge:
    """A judge of generated replies.

    Args:
        name: Identity of the judge, model and way of asking: scores of another name are not reused.
        score: Asks the judge; called by several threads where `at_once` is above 1.
        at_once: Most questions in flight.
    """

    name: str
    score: JudgeScore
    at_once: int = 1


@dataclass(frozen=True)
class ReplyCheck:
    """The settings of the check of generated replies.

    Args:
        judge: Checks replies in addition to the trait's metric; None if no judge is configured.
        allow_unchecked: Use replies that fail the check, or that nothing can check. The vector file records it.
    """

    judge: ReplyJudge | None = None
    allow_unchecked: bool = False


@dataclass(frozen=True)
class Answered:
    """The scenarios that have a reply: of pairs, those with one on both sides.

    Args:
        dataset: The instructed scenarios.
        kept: Their indices on the positive and the negative side.
        replies: Their replies, positive and negative side.
    """

    dataset: TraitDataset
    kept: tuple[list[int], list[int]]
    replies: tuple[list[str], list[str]] = field(repr=False)

    @property
    def n(self) -> int:
        """Number of pairs; of unpaired sides, of the smaller side's scenarios."""
        return min(map(len, self.kept))

    def high_and_low(self, positive: Sequence[T], negative: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
        """Values of the two sides, those of the side that shows the trait first."""
        return (positive, negative) if self.dataset.steering.trait_side == "positive" else (negative, positive)


def check_replies(
    dataset: TraitDataset, replies: Replies, check: ReplyCheck, scores: KeyedLines | None = None
) -> tuple[Kept, Elicitation]:
    """Decide which scenarios are kept.

    Pairs with an empty reply are dropped. A judge drops the pairs whose scores are not clearly high and low. Without pairs,
    each scenario is dropped by itself. The AUC of the trait's metric must reach `MIN_AUC`; the judge's AUC counts where the
    trait has no metric.

    Args:
        dataset: The instructed scenarios.
        replies: The model's replies to them.
        check: The judge, and whether replies that fail are used.
        scores: Scores of the judge from earlier runs; new ones are added.

    Returns:
        Indices of scenarios, positive and negative side, and the record for the vector file.

    Raises:
        ElicitationError: The sides do not differ, or nothing can tell, and `allow_unchecked` is not set.
    """
    sides = _answered(dataset, replies)
    found = Elicitation(n_generated=dataset.n_scenarios, n_kept=sides.n, replies_digest=replies.digest)
    kept = sides.kept
    if check.judge is not None:
        kept, found = _judge_replies(sides, found, check.judge, KeyedLines() if scores is None else scores)
    if dataset.steering.metric is not None:
        found = _measure_replies(sides, found)
    fault = _fault(dataset, found, min(map(len, kept)))
    if fault is not None and not check.allow_unchecked and not (found.auc is None and _may_be_unchecked(dataset)):
        raise ElicitationError(fault)
    if fault is not None:  # the judge's verdict is part of the fault, so all pairs are used
        kept = sides.kept
    return kept, found.model_copy(update={"n_kept": min(map(len, kept)), "passed": fault is None, "fault": fault})


def require_a_check(dataset: TraitDataset, check: ReplyCheck) -> None:
    """Refuse what could not pass in any case, before a reply is generated.

    Raises:
        ElicitationError: The trait has no metric, there is no judge, and `allow_unchecked` is not set. Continuations may be
            unchecked: nothing instructs the model, so that only the scenarios differ, as in written text.
    """
    if dataset.steering.metric is not None:
        parse_metric(dataset.steering.metric)
    elif check.judge is None and not check.allow_unchecked and not _may_be_unchecked(dataset):
        raise ElicitationError(_nothing_to_check_with(dataset))


def check_line(found: Elicitation) -> str:
    """Findings of the check, in one clause."""
    kept = f"{found.n_kept} of {found.n_generated} pairs kept"
    if found.auc is None:
        return f"replies unchecked: nothing tells whether they show the trait; {kept}"
    verdict = "passed" if found.passed else "FAILED, and used anyway (--allow-unchecked)"
    return (
        f"elicitation {verdict}: AUC {found.auc:.2f} by the {found.checked_by} {found.checked_with} (at least "
        f"{MIN_AUC:g}; means {found.mean_high:.0f} and {found.mean_low:.0f}); {kept}"
    )


def _answered(dataset: TraitDataset, replies: Replies) -> Answered:
    positive, negative = _kept(dataset, replies.usable)
    if min(len(positive), len(negative)) < MIN_SCENARIOS:
        raise ElicitationError(
            f"trait {dataset.trait!r}: {min(len(positive), len(negative))} of {dataset.n_scenarios} pairs have a reply on both "
            f"sides; at least {MIN_SCENARIOS} are needed: raise --max-tokens, or use another model"
        )
    texts = [replies.positive[i] for i in positive], [replies.negative[i] for i in negative]
    return Answered(dataset, (positive, negative), texts)


def _kept(dataset: TraitDataset, usable: Sequence[Sequence[bool]]) -> tuple[list[int], list[int]]:
    """Indices of the usable scenarios of each side; of pairs, those that are usable on both."""
    if dataset.paired:
        both = [i for i, pair in enumerate(zip(*usable, strict=True)) if all(pair)]
        return both, both
    positive, negative = ([i for i, one in enumerate(side) if one] for side in usable)
    return positive, negative


# ---------------------------------------------------------------------------------------------------- by the metric


def _measure_replies(sides: Answered, found: Elicitation) -> Elicitation:
    metric = parse_metric(sides.dataset.steering.metric)
    scores = ([metric.score(reply) for reply in side] for side in sides.replies)
    return _scored(found, "metric", metric.kind, *sides.high_and_low(*scores))


# ---------------------------------------------------------------------------------------------------- by a judge


def _judge_replies(
    sides: Answered, found: Elicitation, judge: ReplyJudge, scores: KeyedLines
) -> tuple[tuple[list[int], list[int]], Elicitation]:
    """The scenarios that a judge keeps, and the record with its scores."""
    scenarios = sides.dataset.positive, sides.dataset.negative
    asked = [
        (side[i].prompt, reply)
        for side, at, replies in zip(scenarios, sides.kept, sides.replies, strict=True)
        for i, reply in zip(at, replies, strict=True)
    ]
    with ThreadPoolExecutor(judge.at_once, thread_name_prefix="judge") as pool:
        given = list(pool.map(lambda one: _judged(sides.dataset, judge, scores, *one), asked))
    n_positive = len(sides.kept[0])
    high, low = sides.high_and_low(given[:n_positive], given[n_positive:])
    clear = [score >= MIN_JUDGED_POSITIVE for score in high], [score <= MAX_JUDGED_NEGATIVE for score in low]
    chosen = _kept(sides.dataset, sides.high_and_low(*clear))
    kept = [sides.kept[0][i] for i in chosen[0]], [sides.kept[1][i] for i in chosen[1]]
    found = found.model_copy(update={"judged_by": judge.name})
    return kept, _scored(found, "judge", judge.name, high, low)


def _judged(dataset: TraitDataset, judge: ReplyJudge, scores: KeyedLines, prompt: str, reply: str) -> float:
    key = json_sha256([judge.name, dataset.trait, dataset.rubric, prompt, reply])
    stored = scores.get(key)
    if stored is not None:
        return float(stored["score"])
    score = float(judge.score(dataset.trait, prompt, reply))
    if not 0 <= score <= 100:
        raise ElicitationError(f"the judge {judge.name} scored a reply {score}: a score must be between 0 and 100")
    scores.put(key, {"score": score})
    return score


# ---------------------------------------------------------------------------------------------------- the verdict


def _scored(found: Elicitation, by: str, kind: str, high: Sequence[float], low: Sequence[float]) -> Elicitation:
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


def _fault(dataset: TraitDataset, found: Elicitation, n_kept: int) -> str | None:
    trait = f"trait {dataset.trait!r}"
    if found.auc is None:
        return _nothing_to_check_with(dataset)
    if found.auc < MIN_AUC:
        return (
            f"{trait}: the generated replies do not show the trait: the {found.checked_by} {found.checked_with} separates "
            f"the two sides with AUC {found.auc:.2f}, and {MIN_AUC:g} is needed (mean score {found.mean_high:.0f} "
            f"against {found.mean_low:.0f}, 0 to 100). {_REMEDY[dataset.style == 'continued']}; --allow-unchecked uses the "
            "replies anyway, and the vector file records it"
        )
    if found.judged_by is not None and n_kept < MIN_SCENARIOS:
        return (
            f"{trait}: the judge {found.judged_by} keeps {n_kept} of {dataset.n_scenarios} generated pairs (positive at "
            f"least {MIN_JUDGED_POSITIVE:g}, negative at most {MAX_JUDGED_NEGATIVE:g}), and {MIN_SCENARIOS} are needed"
        )
    return None


_REMEDY = {
    False: "Use a larger instruct model, plainer system prompts or --style written",
    True: "Write scenarios that lead to the trait, use a larger model or --style completions",
}


def _may_be_unchecked(dataset: TraitDataset) -> bool:
    """True for continuations: they follow from the scenarios alone, which are on opposite sides as they were written."""
    return dataset.style == "continued"


def _nothing_to_check_with(dataset: TraitDataset) -> str:
    if _may_be_unchecked(dataset):
        return (
            f"trait {dataset.trait!r}: continuations are unchecked: the trait has no metric in steering.json, and no judge is "
            "configured (--judge)"
        )
    return (
        f"trait {dataset.trait!r}: generated replies are unchecked: the trait has no metric in steering.json and no judge "
        "is configured, so that nothing tells whether the model follows its system prompts. Configure a judge (--judge), "
        "use --style written, or pass --allow-unchecked, which the vector file records, and read the replies in "
        "<out>/.stages yourself"
    )
