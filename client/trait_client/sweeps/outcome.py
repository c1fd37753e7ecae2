"""Progress and outcome of a sweep."""

from collections.abc import Callable
from dataclasses import dataclass

from trait_client.judge import JudgeUsage
from trait_client.results.runs import OutcomeStatus


@dataclass(frozen=True)
class SweepProgress:
    """Progress of a sweep; everything counted here is committed.

    Attributes:
        trials_total: Planned trials, those of earlier runs included.
        trials_done: Stored replies, those of earlier runs included.
        trials_failed: Trials that failed in this run.
        scored: Trials with all their scores.
        tokens: Tokens generated in this run.
        seconds: Seconds since the run began.
    """

    trials_total: int
    trials_done: int
    trials_failed: int
    scored: int
    tokens: int
    seconds: float


ProgressCallback = Callable[[SweepProgress], None]
"""Called on the event loop after each commit."""


@dataclass(frozen=True)
class SweepOutcome:
    """Outcome of a sweep.

    Attributes:
        run_id: Its row in the table `runs`.
        status: `partial` if trials failed or scores are missing; the next run tries them again.
        trials_total: Planned trials.
        trials_resumed: Trials found in the database.
        trials_run: Trials stored by this run.
        trials_failed: Trials that failed in this run.
        unscored: Replies that still lack a score.
        judge_pending: Scores that the judge has not given yet.
        judge: Usage of the judge in this run; None without a judge.
        damage_missing: Settings whose damage is still to be measured.
        tokens: Tokens generated in this run.
        seconds: Duration of this run.
        errors: Distinct messages, most frequent first, with their counts.
    """

    run_id: str
    status: OutcomeStatus
    trials_total: int
    trials_resumed: int
    trials_run: int
    trials_failed: int
    unscored: int
    tokens: int
    seconds: float
    errors: tuple[tuple[str, int], ...]
    judge_pending: int = 0
    judge: JudgeUsage | None = None
    damage_missing: int = 0

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        damage = f", damage of {self.damage_missing} settings not measured yet" if self.damage_missing else ""
        speed = f", {self.tokens / self.seconds:.0f} tokens/s" if self.seconds else ""
        return (
            f"{self.status}: {self.trials_run} of {self.trials_total} trials run, "
            f"{self.trials_resumed} found in the database, {self.trials_failed} failed, "
            f"{self.unscored} not scored yet{damage} ({self.seconds:.1f} s{speed})"
        )
