"""Plan of a sweep: an experiment, the served model and the registered vectors, expanded into trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Literal

from trait_client.http import AsyncTraitClient
from trait_client.http.template_check import check_template
from trait_client.results.rows import ScoreName
from trait_client.scoring.evaluation import EvaluationSpec
from trait_client.scoring.scores import chat_of
from trait_client.sweeps.cells import Cell, Intervention, Trial
from trait_client.sweeps.experiment import Experiment, GridPoint, grid
from trait_client.sweeps.sweep_vectors import SweepVector, VectorKey, fetched, vectors_of
from trait_core.errors import InvalidRequestError
from trait_core.gate_text import gate_text
from trait_core.model_identity import ModelIdentity, digest
from trait_core.schema import ANY_TRAIT, NO_ADAPTER, RESID_POST, Gate, ServiceInfo, SteeringTerm, last_gate_layer
from trait_core.units import UNITLESS, residual_units
from trait_core.vectors.lookup import find_vector


@dataclass(frozen=True)
class ScoreKey:
    """One score of a trial and how it is taken."""

    trait: str
    name: ScoreName
    definition: str


@dataclass(frozen=True)
class ProjectionKey:
    """One projection of a trial, and its reader: an adapter, or `none` for the base model."""

    sha256: str
    layer: int
    reader: str = NO_ADAPTER


Key = ScoreKey | ProjectionKey

_ALWAYS: tuple[ScoreName, ...] = ("coherence", "relevance", "perplexity", "distinct3")
FROM_TEXT = frozenset({"lexical", "distinct3"})
"""Scores computed from the text alone."""


def read_scores(reader: str = NO_ADAPTER) -> frozenset[ScoreKey]:
    """Scores of every reply; raise the definition when a formula of `trait_client.scoring.scores` changes."""
    read = "1" if reader == NO_ADAPTER else f"1, read by {reader}"
    return frozenset(ScoreKey(ANY_TRAIT, name, "1" if name in FROM_TEXT else read) for name in _ALWAYS)


@dataclass
class SweepPlan:
    """Trials, baselines first, and the scores that each needs.

    Attributes:
        trials: Trials by id.
        wanted: Scores and projections by trial id.
        vectors: Vectors by hash: the traits', the random ones, and those of gates.
        evaluations: Questions and metric by trait.
        weights: Type -> its share of the loaded weights' bytes.
        read_with: `base`: the base model reads all replies; `adapter`: the adapter that wrote them.
    """

    weights: dict[str, float] = field(default_factory=dict)
    read_with: Literal["base", "adapter"] = "base"
    trials: dict[str, Trial] = field(default_factory=dict)
    wanted: dict[str, set[Key]] = field(default_factory=dict)
    vectors: dict[str, SweepVector] = field(default_factory=dict)
    evaluations: dict[str, EvaluationSpec] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Each cell once, baselines first."""
        return list({trial.cell.cell_id: trial.cell for trial in self.trials.values()}.values())

    def reader(self, cell: Cell) -> str:
        """Adapter that reads a cell's replies back; `none` is the base model."""
        return (cell.model.asked_as if self.read_with == "adapter" else None) or NO_ADAPTER

    def add(self, cell: Cell, prompt: str, keys: set[Key]) -> None:
        """Add a trial, or add keys to a known one."""
        trial = Trial(cell, prompt)
        self.trials.setdefault(trial.trial_id, trial)
        self.wanted.setdefault(trial.trial_id, set(read_scores(self.reader(cell)))).update(keys)

    def baselines_first(self) -> None:
        """Order the trials so that every steered reply finds its baseline early."""
        self.trials = dict(sorted(self.trials.items(), key=lambda item: item[1].cell.kind != "baseline"))


async def plan_sweep(experiment: Experiment, client: AsyncTraitClient) -> SweepPlan:
    """Expand an experiment; registers the random directions that the service does not have yet.

    Raises:
        InvalidRequestError: A vector is missing or ambiguous, or has no such layer; too few questions.
        DatasetError: A trait's evaluation is missing or malformed.
    """
    planner = await Planner.of(experiment, client)
    return planner.plan({key: grid(experiment, key.trait) for key in planner.vectors})


@dataclass(frozen=True)
class Planner:
    """An experiment on a service; makes plans for any points of its grid.

    Attributes:
        models: Models by adapter; None is the base model.
        vectors: Vectors by trait, method and hook point: the trait's own, then the random ones.
        gates: Vectors of gates, by the name or hash that the experiment gives.
    """

    experiment: Experiment
    info: ServiceInfo
    models: dict[str | None, ModelIdentity]
    evaluations: dict[str, EvaluationSpec]
    prompts: dict[str, list[str]]
    vectors: dict[VectorKey, list[SweepVector]]
    gates: dict[str, SweepVector] = field(default_factory=dict)

    @classmethod
    async def of(cls, experiment: Experiment, client: AsyncTraitClient) -> "Planner":
        """Find the vectors, and register the random directions that the service does not have yet.

        Raises:
            InvalidRequestError: A vector is missing or ambiguous, or the service lacks its hook point; too few questions.
            ChatTemplateError: The model has no chat template, or the template refuses the messages.
            DatasetError: A trait's evaluation is missing or malformed.
        """
        info = await client.info()
        models = _models(experiment, info)
        evaluations = {trait: experiment.evaluation(trait) for trait in experiment.traits}
        prompts = {trait: experiment.prompts_of(trait) for trait in experiment.traits}
        if not experiment.raw:
            # The empty prompt: replies are read back without their prompt as well.
            chats = [chat_of(prompt, experiment.system) for prompt in (*chain(*prompts.values()), "")]
            await check_template(client, info, chats, experiment.chat_template_kwargs)
        registered = await client.vectors(controls=True)
        keys = map(VectorKey._make, product(experiment.traits, experiment.methods, experiment.hook_points))
        vectors = {key: await vectors_of(key, experiment, info, client, registered) for key in keys}
        named = {gate.reference for gate in experiment.gates if gate is not None}
        gates = {
            name: await fetched(client, find_vector(registered, reference=name, param="when")) for name in sorted(named)
        }
        return cls(experiment, info, models, evaluations, prompts, vectors, gates)

    def plan(self, points: Mapping[VectorKey, Sequence[GridPoint]], *, controls: bool = True) -> SweepPlan:
        """Plan the trials of grid points, given by trait, method and hook point.

        Raises:
            InvalidRequestError: The vector has no such layer, or the dose is over the service's limit.
        """
        plan = SweepPlan(
            weights=self.info.weights, read_with=self.experiment.read_with, evaluations=dict(self.evaluations)
        )
        plan.vectors.update({each.sha256: each for each in self.gates.values()})
        for key, own_points in points.items():
            vector, *random = self.vectors[key]
            applied = [vector, *(random if controls else [])]
            plan.vectors.update({each.sha256: each for each in applied})
            for point, each in product(own_points, applied):
                cell = self.cell(key.trait, vector, each, point)
                keys = _keys(cell, self.evaluations[key.trait], plan.reader(cell))
                for prompt in self.prompts[key.trait]:
                    plan.add(cell, prompt, keys)
                    plan.add(cell.baseline, prompt, keys)
        plan.baselines_first()
        _check_doses(plan, self.info)
        return plan

    def cell(self, trait: str, vector: SweepVector, applied: SweepVector, point: GridPoint) -> Cell:
        """The cell of a grid point; `applied` is the trait's vector, or a random one in its place.

        Raises:
            InvalidRequestError: The vector, or the gate's, has no such layer; the gate's comes after the steered one.
        """
        meta = vector.file.metadata
        term, gate = self._with_gate(point.term(applied.sha256, meta.chosen_layer, meta.hook_point))
        intervention = Intervention(trait, vector.sha256, meta.method, term, gate)
        for layer in intervention.layers:
            vector.file.evidence(layer)  # raises for a layer that the file lacks
        return Cell(self.models[point.adapter], point.sampling, intervention)

    def _with_gate(self, term: SteeringTerm) -> tuple[SteeringTerm, str | None]:
        """A term with its gate's vector by hash and its layer set, and the gate as text by the vector's name."""
        if term.when is None:
            return term, None
        vector = self.gates[term.when.reference]
        chosen = vector.file.metadata.chosen_layer
        layer = term.when.layer if term.when.layer is not None else chosen
        vector.file.evidence(layer)  # raises for a layer that the file lacks
        first, at = min(term.layers or [0]), term.at or RESID_POST
        if layer > (last := last_gate_layer(first, at, term.when.hold)):
            raise InvalidRequestError(
                f"the gate on {vector.name} is read on layer {layer}, which is too late for {at} of layer {first}: with hold "
                f"{term.when.hold!r} at most {last} is possible",
                param="when",
            )
        gate: Gate = term.when.model_copy(update={"vector": vector.sha256, "layer": layer})
        return term.model_copy(update={"when": gate}), gate_text(gate, vector.name)


def _models(experiment: Experiment, info: ServiceInfo) -> dict[str | None, ModelIdentity]:
    """Models by adapter; None is the base model.

    Raises:
        InvalidRequestError: The experiment names several services: one at a time is planned.
    """
    if isinstance(experiment.precision, dict):
        raise InvalidRequestError(
            f"the experiment has services for {', '.join(experiment.precision)}: run them in turn (sweep_services)",
            param="precision",
        )
    return {
        adapter: ModelIdentity.of(info, experiment.precision, experiment.adapter, adapter)
        for adapter in experiment.served_adapters
    }


def _keys(cell: Cell, evaluation: EvaluationSpec, reader: str) -> set[Key]:
    """Scores of a cell's trials and of its baseline's, in addition to `read_scores`."""
    if cell.intervention is None:
        return set()
    keys: set[Key] = {ProjectionKey(cell.intervention.trait_sha256, cell.intervention.read_layer, reader)}
    if evaluation.metric is not None:
        keys.add(ScoreKey(evaluation.trait, "lexical", digest(evaluation.metric.model_dump(mode="json"))))
    return keys


def _check_doses(plan: SweepPlan, info: ServiceInfo) -> None:
    """Refuse a dose over the service's limit before the sweep, instead of in each trial."""
    limit = info.limits.max_relative_dose
    for cell in plan.cells:
        change = cell.intervention
        if change is None or change.term.operation in UNITLESS:
            continue
        coefficient, unit = change.term.coefficient, change.term.unit
        for layer in change.layers:
            evidence = plan.vectors[change.trait_sha256].file.evidence(layer)
            relative = abs(residual_units(coefficient, unit, evidence)) / evidence.residual_norm
            if relative > limit:
                raise InvalidRequestError(
                    f"coefficient {coefficient:g} ({unit}) of {change.trait} on layer {layer} is a "
                    f"relative dose of {relative:.3g}: the service allows at most {limit:g}",
                    param="coefficients",
                )
