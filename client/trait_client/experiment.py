"""Experiments: what a sweep runs, read from `experiment.toml`.

::

    name = "layers"
    traits = ["refusal", "sycophancy"]
    datasets = "../../datasets/traits"   # relative to this file
    methods = ["mean_diff"]
    layers = [9, 13, 17]                 # or "chosen": the layer that each vector file chose
    coefficients = [1.0, 2.0]
    n_prompts = 12                       # the first of each trait's questions; or prompts = ["...", ...]
    max_tokens = 48

    [control]
    random_directions = 4

    [judge]                              # scores by a model, see trait_client.judge.config
    url = "http://127.0.0.1:9000/v1"
    model = "judge"

    [trait.refusal]                      # these traits differ
    layers = [13]

Every trait runs on method x layer x coefficient x seed x prompt.
"""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from trait_client.errors import InvalidRequestError
from trait_client.judge.config import JudgeConfig
from trait_client.judge.rubric import COHERENCE, Rubric
from trait_client.schema import NAME_PATTERN, FiniteFloat, Layer, Operation, Scope, Unit, VectorReference
from trait_client.trait_evaluation import TraitEvaluation

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Layers = Annotated[list[Layer], Field(min_length=1)] | Literal["chosen"]
Coefficients = Annotated[list[FiniteFloat], Field(min_length=1)]
Label = Annotated[str, Field(min_length=1, max_length=200)]

MAX_RANDOM_DIRECTIONS = 64


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Control(_Section):
    """Random directions at the doses of the real ones.

    Attributes:
        random_directions: How many; 0 leaves the control out, and then no delta is called an effect.
    """

    random_directions: Annotated[int, Field(ge=0, le=MAX_RANDOM_DIRECTIONS)] = 4


class TraitOverride(_Section):
    """What one trait does differently; None keeps the experiment's value.

    Attributes:
        layers: As the experiment's.
        coefficients: As the experiment's.
        vector: A registered vector, where several fit the trait and the method.
    """

    layers: Layers | None = None
    coefficients: Coefficients | None = None
    vector: VectorReference | None = None


class Experiment(_Section):
    """A sweep's definition.

    Attributes:
        name: Stands in the table `runs`.
        traits: Traits with a registered vector each.
        datasets: Folder of `<category>/<trait>/steering.json`; relative to the experiment's file.
        methods: Extraction methods, each with a vector a trait.
        layers: 0-based decoder blocks, one cell each; `chosen` takes each vector file's choice.
        coefficients: In `unit`, one cell each.
        unit: Of the coefficients.
        operation: What is done to the projection.
        scope: Token positions that are steered.
        preserve_norm: Rescale the residual stream to its norm before the change.
        n_prompts: The first so many of each trait's questions; None takes all.
        prompts: Run these on every trait instead of its own questions.
        seeds: Sampling seeds, one cell each; they matter at temperature > 0.
        max_tokens: Most tokens of a reply.
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        system: System prompt; None sends none (the chat template may have its own).
        precision: Label of the weights' precision; None takes what the service reports.
        adapter: Label of a LoRA adapter; `none` is the base model.
        control: Random directions.
        judge: Rates the replies; None asks no judge.
        trait: Overrides by trait.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    traits: Annotated[list[Name], Field(min_length=1)]
    datasets: Annotated[str, Field(min_length=1)] = "../../datasets/traits"
    methods: Annotated[list[Name], Field(min_length=1)] = ["mean_diff"]
    layers: Layers = "chosen"
    coefficients: Coefficients
    unit: Unit = "dose"
    operation: Operation = "add"
    scope: Scope = "all"
    preserve_norm: bool = False
    n_prompts: Annotated[int, Field(ge=1)] | None = None
    prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=1_000_000)]], Field(min_length=1)] | None = (
        None
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)] = [0]
    max_tokens: Annotated[int, Field(ge=1, le=65536)] = 64
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    system: Annotated[str, Field(max_length=1_000_000)] | None = None
    precision: Label | None = None
    adapter: Label = "none"
    control: Control = Control()
    judge: JudgeConfig | None = None
    trait: dict[Name, TraitOverride] = {}

    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an experiment's file.

        Raises:
            InvalidRequestError: No such file, not TOML, or a wrong value; the message names file and key.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidRequestError(f"{path}: {error.strerror or error}", param="experiment") from error
        except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
            raise InvalidRequestError(f"{path}: not TOML: {error}", param="experiment") from error
        try:
            return cls.from_values(values, folder=path.parent)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{path}: {error}", param=error.param) from error

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path = Path()) -> Self:
        """Check an experiment's values; `datasets` is relative to `folder`.

        Raises:
            InvalidRequestError: A wrong value; the message names the key.
        """
        try:
            experiment = cls.model_validate(values)
        except ValidationError as error:
            raise _first_error(error) from error
        experiment._folder = folder  # noqa: SLF001 - our own instance
        return experiment

    def layers_of(self, trait: str) -> Layers:
        """The trait's layers."""
        override = self.trait.get(trait)
        return override.layers if override and override.layers is not None else self.layers

    def coefficients_of(self, trait: str) -> list[float]:
        """The trait's coefficients."""
        override = self.trait.get(trait)
        return override.coefficients if override and override.coefficients is not None else self.coefficients

    def vector_of(self, trait: str) -> str | None:
        """The vector that is set for the trait by name or hash; None finds it by trait and method."""
        override = self.trait.get(trait)
        return override.vector if override else None

    def evaluation(self, trait: str) -> TraitEvaluation:
        """The trait's questions and metric.

        Raises:
            DatasetError: The datasets do not hold the trait.
        """
        return TraitEvaluation.load(self._folder / self.datasets, trait)

    def rubrics(self) -> dict[str, Rubric]:
        """What the judge rates by, by trait; `*` is coherence. Empty without a judge.

        Raises:
            DatasetError: A trait has no rubric.
        """
        if self.judge is None:
            return {}
        rubrics = {trait: Rubric.load(self._folder / self.datasets, trait) for trait in self.traits}
        return rubrics | ({COHERENCE: Rubric.coherence()} if self.judge.coherence else {})

    def prompts_of(self, trait: str) -> list[str]:
        """The prompts that the trait runs on.

        Raises:
            DatasetError: The datasets do not hold the trait.
            InvalidRequestError: `n_prompts` asks for more questions than the trait has.
        """
        if self.prompts is not None:
            return self.prompts
        questions = self.evaluation(trait).questions
        if self.n_prompts is not None and self.n_prompts > len(questions):
            raise InvalidRequestError(
                f"n_prompts = {self.n_prompts}: trait {trait!r} has {len(questions)} questions", param="n_prompts"
            )
        return list(questions[: self.n_prompts])

    def size(self) -> "ExperimentSize":
        """How much there is to run, before any service is asked.

        Raises:
            DatasetError: The datasets do not hold a trait.
            InvalidRequestError: `n_prompts` asks for more questions than a trait has.
        """
        cells = trials = baseline_scores = 0
        prompts: set[str] = set()
        for trait in self.traits:
            layers = self.layers_of(trait)
            n_layers = 1 if layers == "chosen" else len(layers)
            n_cells = len(self.methods) * n_layers * len(self.coefficients_of(trait)) * len(self.seeds)
            own = self.prompts_of(trait)
            prompts.update(own)
            baseline_scores += len(own) * len(self.seeds)
            cells += n_cells
            trials += n_cells * len(own)
        directions = self.control.random_directions
        n_baselines = len(prompts) * len(self.seeds)
        return ExperimentSize(
            cells=cells,
            control_cells=cells * directions,
            baseline_trials=n_baselines,
            trials=trials * (1 + directions) + n_baselines,
            judge_scores=self._judge_scores(trials, baseline_scores, n_baselines),
        )

    def _judge_scores(self, steered: int, of_baselines: int, n_baselines: int) -> int:
        if self.judge is None:
            return 0
        replies = steered * (1 + (self.control.random_directions if self.judge.controls else 0))
        return replies + of_baselines + (replies + n_baselines if self.judge.coherence else 0)

    @field_validator("traits", "methods", "seeds", "prompts", "coefficients", "layers")
    @classmethod
    def _distinct(cls, values: Any) -> Any:
        if isinstance(values, list) and len(set(values)) < len(values):
            doubled = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"{doubled!r} stands there more than once")
        return values

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if unknown := sorted(set(self.trait) - set(self.traits)):
            raise ValueError(f"[trait.{unknown[0]}] overrides a trait that is not in traits {self.traits}")
        if self.prompts is not None and self.n_prompts is not None:
            raise ValueError("give n_prompts or prompts, not both")
        several = [trait for trait in self.trait if self.trait[trait].vector is not None]
        if several and len(self.methods) > 1:
            raise ValueError(f"[trait.{several[0]}] names one vector, but methods has {len(self.methods)} entries")
        return self


class ExperimentSize(_Section):
    """What an experiment amounts to.

    Attributes:
        cells: Steered configurations, seeds included.
        control_cells: The same with random directions.
        baseline_trials: Unsteered replies, shared by cells.
        trials: All replies, baselines and controls included.
        judge_scores: Scores by the judge; equal replies to equal prompts are judged once.
    """

    cells: int
    control_cells: int
    baseline_trials: int
    trials: int
    judge_scores: int


def _first_error(error: ValidationError) -> InvalidRequestError:
    """The first wrong key; where it may be one thing or another, all that it may be."""
    details = error.errors(include_url=False)
    same = [detail for detail in details if detail["loc"][:1] == details[0]["loc"][:1]]
    key = max((_key(detail["loc"]) for detail in same), key=len)
    meant = [detail for detail in same if _key(detail["loc"]) == key]
    message = " or ".join(dict.fromkeys(detail["msg"].removeprefix("Value error, ") for detail in meant))
    if not key:
        return InvalidRequestError(message)
    shown = repr(meant[0]["input"])
    hidden = meant[0]["type"] == "missing" or key.startswith("judge")  # what stands there may be a key
    got = "" if hidden else f" (got {shown if len(shown) <= 120 else shown[:117] + '...'})"
    return InvalidRequestError(f"{key}: {message}{got}", param=key)


def _key(location: tuple[int | str, ...]) -> str:
    """A location without pydantic's names of a union's branches: `literal['chosen']`, `PositionScope`."""
    return ".".join(str(part) for part in location if re.fullmatch(r"(?!constrained-)[a-z0-9_.-]+", str(part)))
