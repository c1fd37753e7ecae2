"""Measures a trait's metric against hand-written replies that were not used to write it: `metric_check.jsonl`.

::

    {"text": "...", "shows": true}

`shows` says whether the reply shows the trait: the rubric would give it 75 or more, or else 25 or less. The metric and these
replies were written apart, and the metric is not changed because of them: a changed metric needs new replies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from trait_client.judge.agreement import Agreement, agreement
from trait_client.judge.labels import LabelledReply
from trait_client.judge.rubric import COHERENCE
from trait_client.scoring.evaluation import EvaluationSpec
from trait_client.scoring.lexical import Metric
from trait_core.errors import DatasetError
from trait_core.text_files import read_entries
from trait_core.traits.files import MAX_CHARACTERS, STEERING
from trait_core.traits.folder import find_trait, trait_places

METRIC_CHECK = "metric_check.jsonl"
MIDDLE = 50.0
"""A reply that shows the trait should score above it, another one below."""

WANTED = 'write one reply on each line: {"text": "...", "shows": true}'


class CheckReply(BaseModel):
    """A reply with its label.

    Attributes:
        text: The reply.
        shows: It shows the trait.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]
    shows: bool


@dataclass(frozen=True)
class ScoredReply:
    """A reply with its label and its score.

    Attributes:
        text: The reply.
        shows: It shows the trait.
        score: 0 to 100, by the trait's metric; for a trait that lowers its metric, 100 minus that.
    """

    text: str
    shows: bool
    score: float

    @property
    def is_missed(self) -> bool:
        """The score is not on the label's side of 50; exactly 50 is on neither side."""
        return self.score <= MIDDLE if self.shows else self.score >= MIDDLE


@dataclass(frozen=True)
class MetricCheck:
    """Agreement of a trait's metric with the labels.

    Attributes:
        trait: The trait's name.
        kind: Its metric's kind.
        replies: All replies, in the file's order.
    """

    trait: str
    kind: str
    replies: tuple[ScoredReply, ...]

    @cached_property
    def agreement(self) -> Agreement:
        """AUC of replies that show the trait against the others, with its 95 per cent bootstrap interval."""
        return agreement([100.0 * reply.shows for reply in self.replies], [reply.score for reply in self.replies])

    def scores(self, *, shows: bool) -> list[float]:
        """Scores of the replies that show the trait, or of the others."""
        return [reply.score for reply in self.replies if reply.shows is shows]

    def n_above(self, *, shows: bool) -> int:
        """Replies of one label that score above 50: hits, or false alarms."""
        return sum(score > MIDDLE for score in self.scores(shows=shows))

    @property
    def missed(self) -> tuple[ScoredReply, ...]:
        """Replies whose score is not on their label's side of 50."""
        return tuple(reply for reply in self.replies if reply.is_missed)


def check_metric(datasets: Path, trait: str) -> MetricCheck:
    """Score the labelled replies of a trait with its metric.

    Args:
        datasets: Folder of `<category>/<trait>`.
        trait: The trait's name.

    Raises:
        DatasetError: There is no such trait, it has no metric or no labelled replies, or a file is malformed.
    """
    spec = EvaluationSpec.load(datasets, trait)
    folder = find_trait(datasets, trait, holding=STEERING)
    if spec.metric is None:
        raise DatasetError(f"{folder / STEERING}: has no metric to check: add one, or choose another trait")
    return _scored(spec, spec.metric, [(reply.text, reply.shows) for reply in read_check(folder / METRIC_CHECK)])


def checked_traits(datasets: Path) -> list[str]:
    """Names of the traits that have labelled replies.

    Raises:
        DatasetError: No trait has.
    """
    names = [place.name for place in trait_places(datasets) if (place.folder / METRIC_CHECK).is_file()]
    if not names:
        raise DatasetError(
            f"{datasets}: no trait has {METRIC_CHECK}: write labelled replies for one (datasets/README.md)"
        )
    return names


def labels_to_judge(datasets: Path, trait: str) -> list[LabelledReply]:
    """The labelled replies of a trait for a judge: labels of 100 and 0, without prompts.

    Raises:
        DatasetError: The trait does not exist, or its file of labelled replies is missing or malformed.
    """
    replies = read_check(find_trait(datasets, trait) / METRIC_CHECK)
    return [LabelledReply(trait=trait, reply=reply.text, label=100.0 * reply.shows) for reply in replies]


def check_by_labels(datasets: Path, labels: Sequence[LabelledReply]) -> list[MetricCheck]:
    """Score replies that were labelled for a judge with the metrics of their traits.

    A label above 50 shows the trait, one below does not; 50 is left out. Traits without a metric are left out too.

    Args:
        datasets: Folder of `<category>/<trait>`.
        labels: Labelled replies of any traits.

    Raises:
        DatasetError: A trait is not in `datasets`, or its `steering.json` is malformed.
    """
    checks = []
    for trait in dict.fromkeys(label.trait for label in labels if label.trait != COHERENCE):
        spec = EvaluationSpec.load(datasets, trait)
        if spec.metric is not None:
            own = [label for label in labels if label.trait == trait and label.label != MIDDLE]
            checks.append(_scored(spec, spec.metric, [(label.reply, label.label > MIDDLE) for label in own]))
    return checks


def _scored(spec: EvaluationSpec, metric: Metric, replies: Sequence[tuple[str, bool]]) -> MetricCheck:
    scored = []
    for text, shows in replies:
        score = metric.score(text)
        scored.append(ScoredReply(text, shows, score if spec.sign > 0 else 100.0 - score))
    return MetricCheck(spec.trait, metric.kind, tuple(scored))


def read_check(path: Path) -> list[CheckReply]:
    """Read a file of labelled replies.

    Raises:
        DatasetError: The file is missing or malformed, holds a text twice, or has fewer than two replies of a label; the
            message names file and line.
    """
    replies: list[CheckReply] = []
    seen: dict[str, int] = {}
    for number, reply in read_entries(path, CheckReply, WANTED):
        if reply.text in seen:
            raise DatasetError(f"{path}:{number}: the same reply is already on line {seen[reply.text]}")
        seen[reply.text] = number
        replies.append(reply)
    _require_both(path, replies)
    return replies


def _require_both(path: Path, replies: Sequence[CheckReply]) -> None:
    n_shows = sum(reply.shows for reply in replies)
    if min(n_shows, len(replies) - n_shows) < 2:
        raise DatasetError(
            f"{path}: {n_shows} of {len(replies)} replies show the trait: write at least two that do and two that do not"
        )
