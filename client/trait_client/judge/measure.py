"""`measure_agreement`: judges every labelled reply and compares scores with labels, trait by trait."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trait_client.judge.agreement import Agreement, agreement
from trait_client.judge.judge import Judge
from trait_client.judge.judgement import JudgeError, Judgement
from trait_client.judge.labels import LabelledReply
from trait_client.judge.rubric import Rubric
from trait_client.results.rows import AgreementRow, utc_now
from trait_core.model_identity import digest

Progress = Callable[[int, int], None]
"""Called with the number of finished replies and of all replies."""


@dataclass(frozen=True)
class TraitAgreement:
    """Agreement of a judge with the labels of one trait.

    Attributes:
        trait: The trait; `*` is coherence.
        n_labels: Number of labels, including those without a score.
        agreement: Agreement over the labels with a score.
        logprobs: Number of scores weighted by probability; the others are written numbers.
        mean_score: Mean score of the judge; None without scores.
        sd_score: Standard deviation of the scores, 0 for a judge that always says the same; None for fewer than two.
    """

    trait: str
    n_labels: int
    agreement: Agreement
    logprobs: int
    mean_score: float | None
    sd_score: float | None


@dataclass(frozen=True)
class Measurement:
    """Result of `measure_agreement`.

    Attributes:
        traits: Agreement of each trait, in the labels' order.
        errors: Reasons for missing scores with their counts, most frequent first.
        rows: Rows of the table `judge_agreement`.
    """

    traits: list[TraitAgreement]
    errors: list[tuple[str, int]]
    rows: list[AgreementRow]


async def measure_agreement(
    judge: Judge, labels: Sequence[LabelledReply], rubrics: Mapping[str, Rubric], progress: Progress = lambda *_: None
) -> Measurement:
    """Judge every labelled reply and compare scores with labels; `rubrics` maps traits to rubrics."""
    errors: Counter[str] = Counter()
    done = 0

    async def one(label: LabelledReply) -> Judgement | None:
        nonlocal done
        try:
            return await judge.judge(rubrics[label.trait], label.prompt, label.reply)
        except JudgeError as error:
            errors[error.kind] += 1
            return None
        finally:
            done += 1
            progress(done, len(labels))

    judgements = await asyncio.gather(*(one(label) for label in labels))
    traits: dict[str, list[tuple[LabelledReply, Judgement | None]]] = {}
    for label, judgement in zip(labels, judgements, strict=True):
        traits.setdefault(label.trait, []).append((label, judgement))
    found = [_trait(trait, pairs) for trait, pairs in traits.items()]
    rows = [
        _row(judge, rubrics[each.trait], [label for label, _ in pairs], each)
        for each, pairs in zip(found, traits.values(), strict=True)
    ]
    return Measurement(found, errors.most_common(), rows)


def _trait(trait: str, pairs: Sequence[tuple[LabelledReply, Judgement | None]]) -> TraitAgreement:
    scored = [(label.label, judgement) for label, judgement in pairs if judgement is not None]
    scores = [judgement.value for _, judgement in scored]
    return TraitAgreement(
        trait=trait,
        n_labels=len(pairs),
        agreement=agreement([label for label, _ in scored], scores),
        logprobs=sum(judgement.mode == "logprobs" for _, judgement in scored),
        mean_score=float(np.mean(scores)) if scores else None,
        sd_score=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
    )


def _row(judge: Judge, rubric: Rubric, labels: Sequence[LabelledReply], found: TraitAgreement) -> AgreementRow:
    result = found.agreement
    rho, area = result.spearman_interval or (None, None), result.auc_interval or (None, None)
    return AgreementRow(
        definition=judge.config.definition(rubric),
        labels=digest(sorted([label.prompt, label.reply, label.label] for label in labels)),
        n_labels=found.n_labels,
        n=result.n,
        n_high=result.n_high,
        n_low=result.n_low,
        spearman=result.spearman,
        spearman_low=rho[0],
        spearman_high=rho[1],
        auc=result.auc,
        auc_low=area[0],
        auc_high=area[1],
        logprobs=found.logprobs,
        measured_at=utc_now(),
    )
