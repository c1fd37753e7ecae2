"""`run_search`: search coefficients step by step, with all layers and traits of a step in one batch."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trait_client.http import AsyncTraitClient
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.rows import RunCellRow, SearchRow, utc_now
from trait_client.results.runs import OutcomeStatus, recorded_run
from trait_client.sweeps.cells import Cell
from trait_client.sweeps.damage import DamageMeter
from trait_client.sweeps.experiment import Experiment, GridPoint, grid
from trait_client.sweeps.outcome import ProgressCallback
from trait_client.sweeps.plan import Planner
from trait_client.sweeps.rows import definition_rows
from trait_client.sweeps.run import meter_of, run_plan
from trait_client.sweeps.search.ladder import Ladder, ladder
from trait_client.sweeps.search.settings import SearchSettings
from trait_client.sweeps.sweep_vectors import VectorKey
from trait_core.errors import InvalidRequestError
from trait_core.schema import ServiceInfo

DOSE_OF_COEFFICIENT = 10.0
"""Coefficient / relative dose, in unit `dose`."""

_STORED = ("measure", "n", "baseline", "steered", "delta", "ci_low", "ci_high", "coherence", "verdict")
_COLUMNS = ("setting_id", "trait_delta", "kl", *_STORED)
_FOUND = (
    f"SELECT {', '.join(_COLUMNS)} FROM trait_summary LEFT JOIN (SELECT setting_id, kl FROM setting_damage) USING (setting_id) "  # noqa: S608 - constants
    "WHERE setting_id IN (SELECT unnest(?::VARCHAR[]))"
)


@dataclass(frozen=True)
class SearchOutcome:
    """Outcome of a search.

    Attributes:
        run_id: Its row in the table `runs`.
        best: One for each trait and method that has a coherent setting in the trait's direction.
        nothing: Traits, methods and reasons where there is none.
        n_trials: Steered replies, without those of random directions.
        errors: Distinct messages of failed trials, with their counts.
    """

    run_id: str
    best: tuple[SearchRow, ...]
    nothing: tuple[tuple[str, str, str], ...]
    n_trials: int
    errors: tuple[tuple[str, int], ...]

    @property
    def status(self) -> OutcomeStatus:
        """`partial` if trials failed."""
        return "partial" if self.errors else "ok"

    @property
    def line(self) -> str:
        """Status and counts in one line."""
        return (
            f"{self.status}: {len(self.best)} of {len(self.best) + len(self.nothing)} found in {self.n_trials} replies"
        )


@dataclass
class _Candidate:
    """One layer of one vector."""

    key: VectorKey
    layer: int
    ladder: Ladder


async def run_search(
    experiment: Experiment,
    settings: SearchSettings,
    client: AsyncTraitClient,
    store: ResultStore,
    progress: ProgressCallback | None = None,
) -> SearchOutcome:
    """Search the coefficient of every trait on every layer, and store the best coherent setting of each trait.

    The best setting has the largest delta in the trait's direction among those whose mean coherence reaches the bar, or with
    `max_kl` among those whose damage is small enough. Random
    directions are run at the best settings only. As in a sweep, stored trials are not run again.

    Args:
        experiment: Traits, methods, layers (one each), prompts, sampling, control; its coefficients are ignored.
        settings: Strategy and limits of the search.
        client: The service that steers.
        store: The database; it is held for writing until the search is over.
        progress: Called after each commit of a step.

    Raises:
        InvalidRequestError: The experiment does not fit the service, or is not a plain `add` in unit `dose`.
        DatasetError: A trait's evaluation is missing or malformed.
        ResultsError: Another process writes the database.
    """
    _check(experiment, settings)
    meter = meter_of(experiment, client)
    planner = await Planner.of(experiment, client)
    search = _Search(experiment, settings, planner, client, planner.info, progress, meter)
    with store.writer() as writer, recorded_run(writer, experiment.name, experiment.model_dump_json(), 0) as run:
        run.outcome = outcome = await search.run(writer, run.run_id)
    return outcome


class _Search:
    def __init__(
        self,
        experiment: Experiment,
        settings: SearchSettings,
        planner: Planner,
        client: AsyncTraitClient,
        info: ServiceInfo,
        progress: ProgressCallback | None,
        meter: DamageMeter | None,
    ) -> None:
        self._meter = meter
        self._settings = settings
        self._planner = planner
        self._client = client
        self._info = info
        self._progress = progress
        self._point = {trait: grid(experiment, trait)[0] for trait in experiment.traits}
        self._candidates = self._all_candidates(experiment)
        self._cells: dict[VectorKey, dict[str, Cell]] = {key: {} for key in planner.vectors}
        self._errors: dict[str, int] = {}
        self._n_trials = 0

    async def run(self, writer: ResultWriter, run_id: str) -> SearchOutcome:
        for _ in range(self._settings.steps):
            proposed = {id(each): each.ladder.propose() for each in self._candidates}
            if not any(proposed.values()):
                break
            await self._step(writer, run_id, proposed)
        best = {key: self._best(writer, key) for key in self._cells}
        await self._run_controls(writer, run_id, best)
        rows = [
            self._row(run_id, key, found, self._summary(writer, [found["setting_id"]])[0])
            for key, found in best.items()
            if found is not None
        ]
        writer.write(rows)
        nothing = [
            (key.trait, key.method, self._why_nothing(writer, key)) for key, found in best.items() if found is None
        ]
        return SearchOutcome(run_id, tuple(rows), tuple(nothing), self._n_trials, tuple(self._errors.items()))

    def _all_candidates(self, experiment: Experiment) -> list[_Candidate]:
        limit = self._info.limits.max_relative_dose * DOSE_OF_COEFFICIENT
        start = self._settings.first_dose(self._info.d_model) * DOSE_OF_COEFFICIENT
        candidates = []
        for key, (vector, *_) in self._planner.vectors.items():
            layers = experiment.layers_of(key.trait)
            for layer in sorted(vector.file.directions) if layers == "chosen" else layers:
                assert isinstance(layer, int), "checked at the start"
                candidates.append(_Candidate(key, layer, ladder(self._settings, start, limit)))
        return candidates

    async def _step(self, writer: ResultWriter, run_id: str, proposed: dict[int, list[float]]) -> None:
        points: dict[VectorKey, list[GridPoint]] = {key: [] for key in self._cells}
        asked: list[tuple[_Candidate, float, Cell]] = []
        for each in self._candidates:
            for coefficient in proposed[id(each)]:
                point = _at(self._point[each.key.trait], each.layer, coefficient)
                points[each.key].append(point)
                vector = self._planner.vectors[each.key][0]
                cell = self._planner.cell(each.key.trait, vector, vector, point)
                self._cells[each.key][cell.setting_id] = cell
                asked.append((each, coefficient, cell))
        await self._run(writer, run_id, points, controls=False)
        found = {row["setting_id"]: row for row in self._summary(writer, [cell.setting_id for *_, cell in asked])}
        for each in self._candidates:
            each.ladder.learn(
                {
                    coefficient: cell.setting_id in found and self._is_coherent(found[cell.setting_id])
                    for candidate, coefficient, cell in asked
                    if candidate is each
                }
            )

    async def _run(
        self, writer: ResultWriter, run_id: str, points: dict[VectorKey, list[GridPoint]], *, controls: bool
    ) -> None:
        plan = self._planner.plan(points, controls=controls)
        writer.write([*definition_rows(plan), *(RunCellRow(run_id, cell.cell_id) for cell in plan.cells)])
        writer.extend_run(run_id, len(plan.trials))
        outcome = await run_plan(plan, self._client, writer, run_id, self._info, self._progress, meter=self._meter)
        if not controls:
            self._n_trials += sum(trial.cell.kind == "steered" for trial in plan.trials.values())
        for message, count in outcome.errors:
            self._errors[message] = self._errors.get(message, 0) + count

    async def _run_controls(
        self, writer: ResultWriter, run_id: str, best: dict[VectorKey, dict[str, Any] | None]
    ) -> None:
        points = {}
        for key, found in best.items():
            if found is not None:
                change = self._cells[key][found["setting_id"]].intervention
                assert change is not None, "only steered cells are tried"
                points[key] = [_at(self._point[key.trait], change.layers[0], change.term.coefficient)]
        if points and any(len(vectors) > 1 for vectors in self._planner.vectors.values()):
            await self._run(writer, run_id, points, controls=True)

    def _summary(self, writer: ResultWriter, settings: Sequence[str]) -> list[dict[str, Any]]:
        return [dict(zip(_COLUMNS, row, strict=True)) for row in writer.query(_FOUND, [list(settings)])]

    def _is_coherent(self, row: dict[str, Any]) -> bool:
        if self._settings.max_kl is not None:
            return row["kl"] is not None and row["kl"] <= self._settings.max_kl
        return row["coherence"] is not None and row["coherence"] >= self._settings.bar

    def _best(self, writer: ResultWriter, key: VectorKey) -> dict[str, Any] | None:
        """The coherent setting with the largest delta in the trait's direction; None if no delta has that direction."""
        coherent = [row for row in self._summary(writer, list(self._cells[key])) if self._is_coherent(row)]
        best = max(
            coherent, key=lambda row: (row["trait_delta"], row["coherence"] or 0.0, row["setting_id"]), default=None
        )
        return best if best is not None and best["trait_delta"] > 0 else None

    def _why_nothing(self, writer: ResultWriter, key: VectorKey) -> str:
        rows = self._summary(writer, list(self._cells[key]))
        if not rows:
            return "no reply was scored"
        coherent = [row for row in rows if self._is_coherent(row)]
        if not coherent and self._settings.max_kl is not None:
            least = min((row["kl"] for row in rows if row["kl"] is not None), default=None)
            found = "none was measured" if least is None else f"the least was {least:.3g}"
            return f"no setting had a KL of at most {self._settings.max_kl:g} nats a token ({found}): lower --start"
        if not coherent:
            return f"no setting reached a coherence of {self._settings.bar:g}: lower --start"
        return "no coherent setting moved it in the trait's direction"

    def _row(self, run_id: str, key: VectorKey, best: dict[str, Any], summary: dict[str, Any]) -> SearchRow:
        cell = self._cells[key][best["setting_id"]]
        assert cell.intervention is not None, "only steered cells are tried"
        n_trials = len(self._cells[key]) * len(self._planner.prompts[key.trait])
        return SearchRow(
            run_id=run_id,
            trait=key.trait,
            trait_sha256=cell.intervention.trait_sha256,
            setting_id=cell.setting_id,
            layer=cell.intervention.layers[0],
            coefficient=cell.intervention.term.coefficient,
            unit=cell.intervention.term.unit,
            bar=0.0 if self._settings.max_kl is not None else self._settings.bar,
            kl=summary["kl"],
            max_kl=self._settings.max_kl,
            n_trials=n_trials,
            found_at=utc_now(),
            **{name: summary[name] for name in _STORED},
        )


def _at(point: GridPoint, layer: int, coefficient: float) -> GridPoint:
    return dataclasses.replace(point, layers=(layer,), coefficient=coefficient)


def _check(experiment: Experiment, settings: SearchSettings) -> None:
    if settings.max_kl is not None and experiment.damage is None:
        raise InvalidRequestError(
            "max_kl is a bound of the damage: give the experiment a [damage] table", param="damage"
        )
    if experiment.unit != "dose" or experiment.operations != ["add"]:
        raise InvalidRequestError("a search adds doses: leave unit and operation out", param="operation")
    if any(isinstance(layer, list) for trait in experiment.traits for layer in experiment.layers_of(trait)):
        raise InvalidRequestError("a search steers one layer at a time: give no list within layers", param="layers")
    if any(
        len(grid(experiment, trait)) != len({(p.layers, p.coefficient) for p in grid(experiment, trait)})
        for trait in experiment.traits
    ):
        raise InvalidRequestError(
            "a search has one scope, gate, adapter, temperature, top_p and seed: search again for others",
            param="experiment",
        )
