"""Balance: differences between the two sides of a dataset besides the trait.

Any difference between the sides ends up in the vector. Length and words are the easiest to read for a probe, so they are
measured here, without a model: if words alone give a side away, the vector may be one of those words.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from trait_core.statistics import auc

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.instructed import MIN_SYSTEM_PROMPTS, system_prompts_of
from trait_extraction.data.scenarios import MIN_SCENARIOS
from trait_extraction.extra import INSTALL, is_installed

MAX_LENGTH_GAP = 0.15
"""Maximum part by which the mean length of one side exceeds the other's."""
MAX_LENGTH_AUC = 0.7
"""Above it, or below 1 minus it, the length of a reply reveals its side."""
MIN_SHARED_WORDS = 0.6
"""Minimum part of the running words that occur on both sides."""
MAX_WORDS_ACCURACY = 0.75
"""Maximum held-out accuracy of a bag-of-words classifier; chance is 0.5."""
MIN_GAP = 0.25
"""A mark is unbalanced if the difference in its frequency between the two sides is at least this."""

MEANING = (
    "A warning names what a probe may have learnt instead of the trait. It is expected if words, letters or length are the "
    "trait (french, capitals, formality); steering then shows whether the vector does more. Otherwise use the same words on "
    "both sides, or shorten the longer side."
)
"""Explanation of the warnings, printed once below them."""

NOT_CLASSIFIED = f"`found by words` is not measured: it needs scikit-learn: {INSTALL}"
"""Printed where the base installation cannot measure `words_accuracy`."""

N_FOLDS, N_SHUFFLES = 5, 4
_PIECE = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Mark:
    """A word, a punctuation mark, or (`^word`) a reply's first word.

    Args:
        text: The mark; words are in lower case.
        positive: Part of the positive replies that contain it.
        negative: Part of the negative replies that contain it.
    """

    text: str
    positive: float
    negative: float


@dataclass(frozen=True)
class Balance:
    """Measures of the similarity of the two sides.

    Args:
        mean_words: Mean number of words in a reply, positive and negative side.
        length_auc: P(a positive reply is longer than a negative one); 0.5 is even.
        shared_words: Part of the running words that occur on both sides.
        words_accuracy: Held-out accuracy of a bag-of-words classifier; 0.5 is chance. None with fewer than 8 pairs,
            or without scikit-learn.
        uneven: Unbalanced marks (`MIN_GAP`), the most unbalanced first.
    """

    mean_words: tuple[float, float]
    length_auc: float
    shared_words: float
    words_accuracy: float | None
    uneven: tuple[Mark, ...]


def measure_balance(dataset: TraitDataset) -> Balance | None:
    """Compare the replies or completions; if the replies are not generated yet, compare the system prompts.

    The classifier is a logistic regression (l2, C = 1) on counts of words (as written and in lower case),
    punctuation marks and first words, tested on held-out scenarios (5 folds, 4 shuffles).

    Args:
        dataset: A validated trait.

    Returns:
        The balance; None for instructed scenarios with fewer than 5 different pairs of system prompts.
    """
    texts = _compared(dataset)
    if texts is None:
        return None
    positive, negative = texts
    classified = min(len(positive), len(negative)) >= MIN_SCENARIOS and is_installed("sklearn")
    lengths = [np.array([len(text.split()) for text in side], np.float64) for side in (positive, negative)]
    return Balance(
        mean_words=(float(lengths[0].mean()), float(lengths[1].mean())),
        length_auc=auc(lengths[0], lengths[1]),
        shared_words=_shared_words(positive, negative),
        words_accuracy=_words_accuracy(positive, negative, paired=dataset.paired) if classified else None,
        uneven=_uneven(positive, negative),
    )


def balance_warnings(balance: Balance) -> list[str]:
    """Differences by which a probe could distinguish the sides without the trait, one clause each."""
    warnings = []
    shorter, longer = sorted(balance.mean_words)
    if longer > shorter * (1 + MAX_LENGTH_GAP):
        warnings.append(f"one side is longer by {longer / shorter - 1:.0%} (at most {MAX_LENGTH_GAP:.0%})")
    if not 1 - MAX_LENGTH_AUC <= balance.length_auc <= MAX_LENGTH_AUC:
        warnings.append(f"a positive reply is the longer one with probability {balance.length_auc:.2f}")
    if balance.shared_words < MIN_SHARED_WORDS:
        warnings.append(f"only {balance.shared_words:.0%} of the running words occur on both sides")
    if balance.words_accuracy is not None and balance.words_accuracy > MAX_WORDS_ACCURACY:
        marks = ", ".join(f"{m.text} {m.positive:.0%}/{m.negative:.0%}" for m in balance.uneven[:5])
        warnings.append(
            f"words alone reveal the side of {balance.words_accuracy:.0%} of held-out replies"
            + (f" (in +/- replies: {marks})" if marks else "")
        )
    return warnings


def _compared(dataset: TraitDataset) -> tuple[list[str], list[str]] | None:
    if dataset.is_raw or not dataset.is_generated:
        sides = dataset.positive, dataset.negative
        positive, negative = ([s.response or s.prompt for s in side] for side in sides)
        return positive, negative
    positive, negative = system_prompts_of((dataset.positive, dataset.negative), paired=dataset.paired)
    return (positive, negative) if min(len(positive), len(negative)) >= MIN_SYSTEM_PROMPTS else None


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text)


def _features(text: str) -> list[str]:
    """Words and punctuation in lower case, words with capitals also as written, and `^` before the first one."""
    pieces = _pieces(text)
    lower = [piece.lower() for piece in pieces]
    return [*lower, *(p for p, low in zip(pieces, lower, strict=True) if p != low), *(f"^{p}" for p in lower[:1])]


def _shared_words(positive: Sequence[str], negative: Sequence[str]) -> float:
    sides = [
        Counter(p.lower() for text in side for p in _pieces(text) if p[0].isalnum()) for side in (positive, negative)
    ]
    total = sum(sum(side.values()) for side in sides)
    shared = sides[0].keys() & sides[1].keys()
    return sum(side[word] for side in sides for word in shared) / total if total else 1.0


def _uneven(positive: Sequence[str], negative: Sequence[str]) -> tuple[Mark, ...]:
    shares = []
    for side in (positive, negative):
        found = Counter(f for text in side for f in {f for f in _features(text) if f == f.lower()})
        shares.append({feature: n / len(side) for feature, n in found.items()})
    marks = [Mark(f, shares[0].get(f, 0.0), shares[1].get(f, 0.0)) for f in shares[0].keys() | shares[1].keys()]
    marks = [m for m in marks if abs(m.positive - m.negative) >= MIN_GAP]
    return tuple(sorted(marks, key=lambda m: (-abs(m.positive - m.negative), m.text)))


def _words_accuracy(positive: Sequence[str], negative: Sequence[str], *, paired: bool) -> float:
    # Imported here: it takes two seconds, and the base installation does not have it.
    from sklearn.feature_extraction.text import CountVectorizer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415

    texts = [*positive, *negative]
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    # Both replies of a scenario are in one fold: otherwise a topic's words are both fitted and tested.
    scenarios = np.concatenate([np.arange(len(positive)), np.arange(len(negative))])
    folds = GroupKFold if paired else StratifiedKFold
    classifier = make_pipeline(CountVectorizer(analyzer=_features), LogisticRegression(C=1.0, solver="liblinear"))
    scores = [
        cross_val_score(
            classifier,
            texts,
            labels,
            groups=scenarios if paired else None,
            scoring="balanced_accuracy",
            cv=folds(N_FOLDS, shuffle=True, random_state=seed),
            error_score="raise",
        )
        for seed in range(N_SHUFFLES)
    ]
    return float(np.mean(scores))
