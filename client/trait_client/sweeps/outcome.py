"""What a sweep tells while it runs and when it is over."""

from collections.abc import Callable
from dataclasses import dataclass

from trait_client.judge import JudgeUsage
from trait_client.results.runs import OutcomeStatus


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands; everything counted here is committed.

    Attributes:
        trials_total: Planned, those of earlier runs included.
        trials_done: Replies stored, those of earlier runs included.
        trials_failed: Failed in this run.
        scored: Trials with all their scores.
        tokens: Generated in this run.
        seconds: Since the run began.
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
    """How a sweep ended.

    Attributes:
        run_id: Its row in the table `runs`.
        status: `partial` where trials failed or scores are missing; the next run tries them again.
        trials_total: Planned.
        trials_resumed: Found in the database.
        trials_run: Stored by this run.
        trials_failed: Failed in this run.
        unscored: Replies that still lack a score.
        judge_pending: Scores that the judge still owes.
        judge: What the judge did in this run; None without one.
        tokens: Generated in this run.
        seconds: Of this run.
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

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        speed = f", {self.tokens / self.seconds:.0f} tokens/s" if self.seconds else ""
        return (
            f"{self.status}: {self.trials_run} of {self.trials_total} trials run, "
            f"{self.trials_resumed} found in the database, {self.trials_failed} failed, "
            f"{self.unscored} not scored yet ({self.seconds:.1f} s{speed})"
        )
