"""Damage of a sweep's settings: each change is read on neutral passages and questions, and compared with the unsteered model."""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from trait_client.http import AsyncTraitClient
from trait_client.results import ResultWriter
from trait_client.results.damage_rows import DamageRow
from trait_client.results.recorder import Recorder
from trait_client.results.rows import utc_now
from trait_client.scoring.damage import Damage, DamageReading, damage, reaches_prompts, read_damage_set
from trait_client.scoring.damage_set import CHOICES, NEUTRAL, ChoiceQuestion, Passage, read_choices, read_passages
from trait_client.sweeps.cells import Cell, Intervention
from trait_client.sweeps.plan import SweepPlan
from trait_core.errors import InvalidRequestError, TraitError
from trait_core.model_identity import digest
from trait_core.statistics import Interval

logger = logging.getLogger(__name__)

_FORMULAS = "1"
"""Part of a set's definition; raise it when a formula of `trait_client.scoring.damage` changes."""


@dataclass(frozen=True)
class DamageSet:
    """Passages and questions on which steering should change nothing."""

    passages: list[Passage]
    choices: list[ChoiceQuestion]

    @classmethod
    def load(cls, folder: Path, n_passages: int | None = None, n_questions: int | None = None) -> Self:
        """Read the first passages and questions of a folder; None reads all.

        Raises:
            DatasetError: A file is missing or malformed.
            InvalidRequestError: The folder has fewer than are asked for.
        """
        passages, choices = read_passages(folder / NEUTRAL), read_choices(folder / CHOICES)
        for what, asked, found in (("passages", n_passages, passages), ("questions", n_questions, choices)):
            if asked is not None and asked > len(found):
                raise InvalidRequestError(
                    f"damage.{what} = {asked}: {folder} has {len(found)}; ask for at most these", param=f"damage.{what}"
                )
        return cls(passages[:n_passages], choices[:n_questions])

    @property
    def definition(self) -> str:
        """Digest of what is read, and how."""
        texts = [passage.text for passage in self.passages]
        questions = [choice.model_dump(mode="json", exclude={"id"}) for choice in self.choices]
        return digest([_FORMULAS, texts, questions])


class DamageMeter:
    """Measures the damage of settings that have none in the database yet.

    Seeds and sampling make no difference to it: settings that differ in these alone are measured once. A change that acts on few
    tokens of a prompt has no row: reading prompts would not show what it does in a reply.

    Args:
        client: The service.
        damage_set: The passages and questions.
        controls: Also measure the random directions.

    Attributes:
        errors: Messages of changes that the last run could not read, with their counts.
        missing: Settings that are still to be measured.
    """

    def __init__(self, client: AsyncTraitClient, damage_set: DamageSet, *, controls: bool = False) -> None:
        self.errors: Counter[str] = Counter()
        self.missing = 0
        self._client = client
        self._set = damage_set
        self._kinds = frozenset({"steered", "control"} if controls else {"steered"})
        self._unsteered: dict[str | None, DamageReading] = {}

    async def run(self, plan: SweepPlan, writer: ResultWriter, recorder: Recorder) -> None:
        """Measure the settings of a plan, one change after another, and record each as it is measured."""
        self.errors = Counter()
        have = await recorder.call(_stored, writer, self._set.definition)
        waiting = _by_change([cell for cell in plan.cells if cell.kind in self._kinds], have)
        self.missing = sum(len(settings) for _, _, settings in waiting.values())
        for adapter, change, settings in waiting.values():
            try:
                found = await self._measure(adapter, change)
            except TraitError as error:
                logger.debug("the damage of %d settings is missing: %s", len(settings), error)
                self.errors[f"damage: {type(error).__name__}: {error}"] += len(settings)
                continue
            if found is not None:
                recorder.put([self._row(setting_id, found) for setting_id in sorted(settings)])
            self.missing -= len(settings)

    async def _measure(self, adapter: str | None, change: Intervention) -> Damage | None:
        """The damage of one change; None if prompts do not show it."""
        if not reaches_prompts(change.term):
            return None
        if adapter not in self._unsteered:
            self._unsteered[adapter] = await self._read(adapter, None)
        return damage(self._unsteered[adapter], await self._read(adapter, change))

    async def _read(self, adapter: str | None, change: Intervention | None) -> DamageReading:
        steering = change.steering() if change is not None else None
        return await read_damage_set(self._client, self._set.passages, self._set.choices, steering, adapter)

    def _row(self, setting_id: str, found: Damage) -> DamageRow:
        (kl_low, kl_high), (rise_low, rise_high) = _ends(found.kl_interval), _ends(found.nll_rise_interval)
        accuracy = found.accuracy
        accuracy_low, accuracy_high = _ends(accuracy.interval if accuracy is not None else None)
        return DamageRow(
            setting_id=setting_id,
            definition=self._set.definition,
            kl=found.kl,
            kl_low=kl_low,
            kl_high=kl_high,
            coverage=found.coverage,
            nll_rise=found.nll_rise,
            nll_rise_low=rise_low,
            nll_rise_high=rise_high,
            n_passages=len(self._set.passages),
            baseline_accuracy=accuracy.baseline if accuracy is not None else None,
            accuracy=accuracy.steered if accuracy is not None else None,
            accuracy_delta=accuracy.delta if accuracy is not None else None,
            accuracy_low=accuracy_low,
            accuracy_high=accuracy_high,
            n_questions=len(self._set.choices),
            measured_at=utc_now(),
        )


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval[0], interval[1])


def _stored(writer: ResultWriter, definition: str) -> set[str]:
    return {
        setting_id for (setting_id,) in writer.query("SELECT setting_id FROM damage WHERE definition = ?", [definition])
    }


def _by_change(cells: Iterable[Cell], have: Collection[str]) -> dict[str, tuple[str | None, Intervention, set[str]]]:
    """Digest of model and change -> the adapter that is asked, the change, and its settings without damage."""
    found: dict[str, tuple[str | None, Intervention, set[str]]] = {}
    settings: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        if cell.setting_id in have:
            continue
        assert cell.intervention is not None, "a baseline has no damage"
        key = digest([cell.model.as_identity(), cell.intervention.as_identity()])
        settings[key].add(cell.setting_id)
        found[key] = cell.model.asked_as, cell.intervention, settings[key]
    return found
