"""Grid of an experiment: every combination of its dimensions, and its size."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from trait_client.scoring.damage_set import CHOICES, NEUTRAL, read_choices, read_passages
from trait_client.sweeps.cells import Sampling
from trait_client.sweeps.experiment.definition import Experiment
from trait_core.chat_templates import kwargs_text
from trait_core.schema import RESID_POST, HookPoint, SteeringTerm


@dataclass(frozen=True)
class GridPoint:
    """One cell's change and sampling, without its vector.

    Attributes:
        layers: Layers steered together; None is the layer that the vector file recommends.
        coefficient: Coefficient in the experiment's unit.
        options: The other fields of the steering term, by name.
        adapter: Name of the adapter that the service has; None asks the base model.
    """

    layers: tuple[int, ...] | None
    coefficient: float
    options: dict[str, Any]
    adapter: str | None
    sampling: Sampling

    def term(self, sha256: str, chosen_layer: int, at: HookPoint) -> SteeringTerm:
        """The point with a vector and its place in a block, as a request sends it; its gate is still the experiment's."""
        layers = list(self.layers or (chosen_layer,))
        # The stream is left out, so that requests and ids are those of sweeps from before hook points.
        place = None if at == RESID_POST else at
        return SteeringTerm(vector=sha256, coefficient=self.coefficient, layers=layers, at=place, **self.options)


def grid(experiment: Experiment, trait: str) -> list[GridPoint]:
    """Expand an experiment into the cells of one trait, method and hook point at one precision.

    `ablate` ignores the coefficients: it is one cell with coefficient 0.
    """
    layers = experiment.layers_of(trait)
    sets = [None] if layers == "chosen" else [tuple(each) if isinstance(each, list) else (each,) for each in layers]
    changes = [
        (operation, coefficient)
        for operation in experiment.operations
        for coefficient in ([0.0] if operation == "ablate" else experiment.coefficients_of(trait))
    ]
    return [
        GridPoint(chosen, coefficient, {"operation": operation, **options}, adapter, sampling)
        for chosen, (operation, coefficient), options, adapter, sampling in product(
            sets, changes, experiment.term_options, experiment.served_adapters, samplings(experiment)
        )
    ]


def samplings(experiment: Experiment) -> list[Sampling]:
    """Every combination of generation options, seeds included."""
    variables = kwargs_text(experiment.chat_template_kwargs)
    return [
        Sampling(experiment.system, experiment.max_tokens, temperature, top_p, seed, experiment.raw, variables)
        for temperature, top_p, seed in product(experiment.temperatures, experiment.top_ps, experiment.seeds)
    ]


@dataclass(frozen=True)
class ExperimentSize:
    """Size of an experiment.

    Attributes:
        cells: Steered configurations, seeds included.
        control_cells: The same configurations with random directions.
        baseline_trials: Unsteered replies, shared by cells.
        trials: All replies, baselines and controls included.
        generated_tokens: Maximum tokens of all replies.
        judge_scores: Scores by the judge; equal replies to equal prompts are judged once.
        damage_readings: At most so many prompts are read, steered and unsteered, to measure damage.
    """

    cells: int
    control_cells: int
    baseline_trials: int
    trials: int
    generated_tokens: int
    judge_scores: int
    damage_readings: int = 0


def size_of(experiment: Experiment) -> ExperimentSize:
    """Compute the size of an experiment without asking a service.

    Raises:
        DatasetError: The datasets do not have a trait.
        InvalidRequestError: `n_prompts` asks for more questions than a trait has.
    """
    n_services = len(experiment.services)
    n_baselines = n_services * len(experiment.served_adapters) * len(samplings(experiment))
    prompts = {trait: experiment.prompts_of(trait) for trait in experiment.traits}
    n_vectors = len(experiment.methods) * len(experiment.hook_points)
    cells = {trait: n_services * n_vectors * len(grid(experiment, trait)) for trait in experiment.traits}
    steered = sum(cells[trait] * len(prompts[trait]) for trait in experiment.traits)
    unsteered = n_baselines * len(_distinct(prompts.values()))
    directions = experiment.control.random_directions
    trials = steered * (1 + directions) + unsteered
    return ExperimentSize(
        cells=sum(cells.values()),
        control_cells=sum(cells.values()) * directions,
        baseline_trials=unsteered,
        trials=trials,
        generated_tokens=trials * experiment.max_tokens,
        judge_scores=_judge_scores(
            experiment, steered, n_baselines * sum(len(own) for own in prompts.values()), unsteered
        ),
        damage_readings=_damage_readings(experiment, n_services * n_vectors),
    )


def _damage_readings(experiment: Experiment, n_vectors: int) -> int:
    """Prompts of the damage set for each distinct change, and once for each unsteered model."""
    if experiment.damage is None:
        return 0
    asked, folder = experiment.damage, experiment.damage_folder
    passages, questions = read_passages(folder / NEUTRAL), read_choices(folder / CHOICES)
    each = len(passages[: asked.passages]) + 4 * len(questions[: asked.questions])
    changes = [
        len({(p.layers, p.coefficient, str(p.options), p.adapter) for p in grid(experiment, trait)})
        for trait in experiment.traits
    ]
    directions = experiment.control.random_directions if asked.controls else 0
    return each * (
        n_vectors * sum(changes) * (1 + directions) + len(experiment.services) * len(experiment.served_adapters)
    )


def _judge_scores(experiment: Experiment, steered: int, of_baselines: int, n_baselines: int) -> int:
    if experiment.judge is None:
        return 0
    replies = steered * (1 + (experiment.control.random_directions if experiment.judge.controls else 0))
    return replies + of_baselines + (replies + n_baselines if experiment.judge.coherence else 0)


def _distinct(prompts: Iterable[list[str]]) -> set[str]:
    return {prompt for own in prompts for prompt in own}
