"""Judges replies while others are generated; a slow judge delays only its own scores."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trait_client.judge import Judge, JudgeConfig, JudgeError, Rubric
from trait_client.judge.rubric import COHERENCE
from trait_client.results.recorder import Recorder
from trait_client.results.rows import PENDING, ScoreName, ScoreRow
from trait_client.scoring import scores
from trait_client.sweeps.cells import Trial
from trait_client.sweeps.plan import Key, ScoreKey, SweepPlan

logger = logging.getLogger(__name__)

JUDGED: frozenset[ScoreName] = frozenset({"judge", "judge_coherence"})


@dataclass(frozen=True)
class Unjudged:
    """A stored reply and the judge's scores that are missing."""

    trial_id: str
    prompt: str
    text: str
    missing: frozenset[ScoreKey]


def score_key(config: JudgeConfig, rubric: Rubric) -> ScoreKey:
    """Key of the score that a rubric gives."""
    name: ScoreName = "judge_coherence" if rubric.trait == COHERENCE else "judge"
    return ScoreKey(rubric.trait, name, config.definition(rubric))


def want_judged(plan: SweepPlan, config: JudgeConfig, rubrics: Mapping[str, Rubric]) -> None:
    """Add the judge's scores to those that a plan wants: the trait's and coherence, of steered replies and baselines."""
    keys = {trait: score_key(config, rubric) for trait, rubric in rubrics.items()}
    for trial_id, trial in plan.trials.items():
        cell = trial.cell
        if cell.intervention is None or (cell.kind == "control" and not config.controls):
            continue
        wanted = {keys[name] for name in (cell.intervention.trait, COHERENCE) if name in keys}
        plan.wanted[trial_id] |= wanted
        plan.wanted[Trial(cell.baseline, trial.prompt).trial_id] |= wanted


def split(missing: Iterable[Key]) -> tuple[frozenset[Key], frozenset[ScoreKey]]:
    """Split keys into the scores computed here and those that the judge gives."""
    missing = frozenset(missing)
    judged = frozenset(key for key in missing if isinstance(key, ScoreKey) and key.name in JUDGED)
    return missing - judged, judged


class Judging:
    """Takes stored replies and records the judge's scores; a score that the judge fails to give is stored as pending.

    Args:
        judge: Judge that rates the replies.
        rubrics: Rubrics by trait; `*` is coherence.
        recorder: Takes the rows.

    Attributes:
        errors: Reasons of pending scores, with their counts.
    """

    def __init__(self, judge: Judge, rubrics: Mapping[str, Rubric], recorder: Recorder) -> None:
        self.errors: Counter[str] = Counter()
        self._judge = judge
        self._rubrics = rubrics
        self._recorder = recorder
        self._queue: asyncio.Queue[tuple[Unjudged, ScoreKey] | None] = asyncio.Queue()

    def put(self, reply: Unjudged) -> None:
        """Add a reply to the queue; its scores are asked for one by one."""
        for key in reply.missing:
            self._queue.put_nowait((reply, key))

    def close(self) -> None:
        """Let `run` return when the queue is empty."""
        for _ in range(self._judge.config.concurrency):
            self._queue.put_nowait(None)

    async def run(self) -> None:
        """Judge until closed."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._judge.config.concurrency):
                group.create_task(self._work())

    async def _work(self) -> None:
        while (item := await self._queue.get()) is not None:
            self._recorder.put([await self._score(*item)])

    async def _score(self, reply: Unjudged, key: ScoreKey) -> ScoreRow:
        if scores.is_empty(reply.text):  # nothing to rate; the computed scores of an empty reply are the same
            value = 0.0 if key.name == "judge_coherence" else None
            return ScoreRow(reply.trial_id, key.trait, key.name, value, key.definition)
        try:
            judgement = await self._judge.judge(self._rubrics[key.trait], reply.prompt, reply.text)
        except JudgeError as error:
            logger.debug("%s of trial %s is pending: %s", key.name, reply.trial_id, error)
            self.errors[error.kind] += 1
            reason = f"{type(error).__name__}: {error}"
            return ScoreRow(reply.trial_id, key.trait, key.name, None, key.definition, PENDING, reason)
        return ScoreRow(reply.trial_id, key.trait, key.name, judgement.value, key.definition, judgement.mode)
