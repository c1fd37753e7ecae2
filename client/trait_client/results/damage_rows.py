"""Row of the table `damage`; the fields are the columns, in their order."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar


@dataclass(frozen=True)
class DamageRow:
    """Damage of a setting on a set of neutral passages and questions; what was not asked is None."""

    table: ClassVar = "damage"
    setting_id: str
    definition: str
    kl: float
    kl_low: float | None
    kl_high: float | None
    coverage: float
    nll_rise: float
    nll_rise_low: float | None
    nll_rise_high: float | None
    n_passages: int
    baseline_accuracy: float | None
    accuracy: float | None
    accuracy_delta: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    n_questions: int
    measured_at: datetime
