"""Experiments: what a sweep runs, read from `experiment.toml`.

::

    name = "layers"
    traits = ["refusal", "sycophancy"]
    datasets = "../../datasets/traits"   # relative to this file
    methods = ["mean_diff"]
    layers = [9, 13, [9, 13, 17]]        # a list steers its layers together; or "chosen": each vector file's choice
    coefficients = [1.0, 2.0]
    n_prompts = 12                       # the first of each trait's questions; or prompts = ["...", ...]
    max_tokens = 48

    [control]
    random_directions = 4

    [precision.int8]                     # a service for each precision, in turn: see trait_client.sweeps.experiment.precision
    model = "./smollm2-w8a8"             # started by the sweep, and stopped; or url = "http://..."
    weights = "int8"                     # what GET /v1/steering must say of the loaded weights

    [judge]                              # scores by a model, see trait_client.judge.config
    url = "http://127.0.0.1:9000/v1"
    model = "judge"

    [trait.refusal]                      # these traits differ
    layers = [13]

Every trait runs on precision x adapter x method x layer x operation x scope x coefficient x temperature x top_p x seed x
prompt.
"""

import tomllib
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from trait_client.judge.config import JudgeConfig
from trait_client.judge.rubric import COHERENCE, Rubric
from trait_client.scoring.evaluation import EvaluationSpec
from trait_client.sweeps.experiment.precision import PrecisionService
from trait_client.sweeps.experiment.section import Coefficients, Label, Layers, Name, Section
from trait_core.errors import InvalidRequestError, first_fault
from trait_core.schema import NO_ADAPTER, Operation, Scope, SteeringTerm, Unit, VectorReference
from trait_core.traits import default_traits_folder

T = TypeVar("T")

Temperature = Annotated[float, Field(ge=0, le=10)]
TopP = Annotated[float, Field(gt=0, le=1)]

_OF_CELLS = frozenset({"layers", "operation"})
"""Fields of a steering term that the grid sets for each cell."""

MAX_RANDOM_DIRECTIONS = 64


class Control(Section):
    """Random directions at the doses of the real ones.

    Attributes:
        random_directions: How many; 0 leaves the control out, and then no delta is called an effect.
    """

    random_directions: Annotated[int, Field(ge=0, le=MAX_RANDOM_DIRECTIONS)] = 4


class TraitOverride(Section):
    """What one trait does differently; None keeps the experiment's value.

    Attributes:
        layers: As the experiment's.
        coefficients: As the experiment's.
        vector: A registered vector, where several fit the trait and the method.
    """

    layers: Layers | None = None
    coefficients: Coefficients | None = None
    vector: VectorReference | None = None


class Experiment(Section):
    """A sweep's definition.

    Attributes:
        name: Stands in the table `runs`.
        traits: Traits with a registered vector each.
        datasets: Folder of `<category>/<trait>/steering.json`; relative to the experiment's file. If it is left out and
            the default does not exist, `default_traits_folder()` is used.
        methods: Extraction methods, each with a vector a trait.
        layers: 0-based decoder blocks, one cell each; a list among them is one cell that steers those layers together,
            each with the coefficient; `chosen` takes each vector file's choice.
        coefficients: In `unit`, one cell each.
        unit: Of the coefficients.
        operation: What is done to the projection; a list is a dimension. `ablate` is one cell whatever the coefficients.
        scope: Token positions that are steered; a list is a dimension.
        preserve_norm: Rescale the residual stream to its norm before the change.
        n_prompts: The first so many of each trait's questions; None takes all.
        prompts: Run these on every trait instead of its own questions.
        seeds: Sampling seeds, one cell each; they matter at temperature > 0.
        max_tokens: Most tokens of a reply.
        temperature: 0 is greedy; a list is a dimension.
        top_p: Nucleus sampling; a list is a dimension.
        system: System prompt; None sends none (the chat template may have its own).
        precision: Label of the weights' precision, None takes what the service reports; or a table of services by label.
        adapter: Label of a LoRA adapter that is part of the served model; `none` is the base model.
        adapters: Names of LoRA adapters in the service, one cell each; `none` is its base model.
        read_with: What reads replies back for projections and scores: the base model whatever wrote them, or the
            adapter that did.
        control: Random directions.
        judge: Rates the replies; None asks no judge.
        trait: Overrides by trait.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    traits: Annotated[list[Name], Field(min_length=1)]
    datasets: Annotated[str, Field(min_length=1)] = "../../datasets/traits"
    methods: list[Name] = Field(default_factory=lambda: ["mean_diff"], min_length=1)
    layers: Layers = "chosen"
    coefficients: Coefficients
    unit: Unit = "dose"
    operation: Operation | Annotated[list[Operation], Field(min_length=1)] = "add"
    scope: Scope | Annotated[list[Scope], Field(min_length=1)] = "all"
    preserve_norm: bool = False
    n_prompts: Annotated[int, Field(ge=1)] | None = None
    prompts: Annotated[list[Annotated[str, Field(min_length=1, max_length=1_000_000)]], Field(min_length=1)] | None = (
        None
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default_factory=lambda: [0], min_length=1)
    max_tokens: Annotated[int, Field(ge=1, le=65536)] = 64
    temperature: Temperature | Annotated[list[Temperature], Field(min_length=1)] = 0.0
    top_p: TopP | Annotated[list[TopP], Field(min_length=1)] = 1.0
    system: Annotated[str, Field(max_length=1_000_000)] | None = None
    precision: Label | Annotated[dict[Name, PrecisionService], Field(min_length=1)] | None = None
    adapter: Label = NO_ADAPTER
    adapters: Annotated[list[Label], Field(min_length=1)] | None = None
    read_with: Literal["base", "adapter"] = "base"
    control: Control = Control()
    judge: JudgeConfig | None = None
    trait: dict[Name, TraitOverride] = Field(default_factory=dict)

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
            fault = first_fault(error, hide={"judge"})  # an API key may be written there
            raise InvalidRequestError(fault.with_value(), param=fault.where or None) from error
        experiment._folder = folder  # noqa: SLF001 - our own instance
        return experiment

    @property
    def folder(self) -> Path:
        """Where its file stands: what its paths are relative to."""
        return self._folder

    @property
    def services(self) -> dict[str, PrecisionService | None]:
        """By precision, in the file's order; None is the one service that the command is given."""
        if isinstance(self.precision, dict):
            return dict(self.precision)
        return {self.precision or "": None}

    def at(self, precision: str) -> Self:
        """The experiment on one of its services alone."""
        return self.model_copy(update={"precision": precision}) if isinstance(self.precision, dict) else self

    @property
    def operations(self) -> list[Operation]:
        """What is done to the projection, one cell each."""
        return _listed(self.operation)

    @property
    def scopes(self) -> list[Scope]:
        """Token positions that are steered, one cell each."""
        return _listed(self.scope)

    @property
    def term_options(self) -> list[dict[str, Any]]:
        """Fields of a steering term that the experiment sets by their own names, `operation` aside; one cell each.

        A key that is a list is a dimension.
        """
        names = [
            name for name in SteeringTerm.model_fields if name in type(self).model_fields and name not in _OF_CELLS
        ]
        return [
            dict(zip(names, values, strict=True)) for values in product(*(_listed(getattr(self, n)) for n in names))
        ]

    @property
    def temperatures(self) -> list[float]:
        """One cell each."""
        return _listed(self.temperature)

    @property
    def top_ps(self) -> list[float]:
        """One cell each."""
        return _listed(self.top_p)

    @property
    def served_adapters(self) -> list[str | None]:
        """Adapters that requests ask for, one cell each; None asks the base model."""
        return [None if name == NO_ADAPTER else name for name in self.adapters or [NO_ADAPTER]]

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

    def _traits_folder(self) -> Path:
        folder = self._folder / self.datasets
        return folder if "datasets" in self.model_fields_set or folder.is_dir() else default_traits_folder()

    def evaluation(self, trait: str) -> EvaluationSpec:
        """The trait's questions and metric.

        Raises:
            DatasetError: The datasets do not hold the trait.
        """
        return EvaluationSpec.load(self._traits_folder(), trait)

    def rubrics(self) -> dict[str, Rubric]:
        """What the judge rates by, by trait; `*` is coherence. Empty without a judge.

        Raises:
            DatasetError: A trait has no rubric.
        """
        if self.judge is None:
            return {}
        rubrics = {trait: Rubric.load(self._traits_folder(), trait) for trait in self.traits}
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

    @field_validator(
        "traits",
        "methods",
        "seeds",
        "prompts",
        "coefficients",
        "layers",
        "operation",
        "scope",
        "temperature",
        "top_p",
        "adapters",
    )
    @classmethod
    def _distinct(cls, values: Any) -> Any:
        if isinstance(values, list):
            _demand_distinct(values)
            for inner in values:
                if isinstance(inner, list):
                    _demand_distinct(inner)
        return values

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if unknown := sorted(set(self.trait) - set(self.traits)):
            raise ValueError(f"[trait.{unknown[0]}] overrides a trait that is not in traits {self.traits}")
        if self.prompts is not None and self.n_prompts is not None:
            raise ValueError("give n_prompts or prompts, not both")
        if self.adapters is not None and self.adapter != NO_ADAPTER:
            raise ValueError("give adapters, which requests ask for, or adapter, a label; not both")
        several = [trait for trait in self.trait if self.trait[trait].vector is not None]
        if several and len(self.methods) > 1:
            raise ValueError(f"[trait.{several[0]}] names one vector, but methods has {len(self.methods)} entries")
        return self


def _listed(value: T | list[T]) -> list[T]:
    return value if isinstance(value, list) else [value]


def _demand_distinct(values: list[Any]) -> None:
    doubled = [value for i, value in enumerate(values) if value in values[:i]]
    if doubled:
        raise ValueError(f"{doubled[0]!r} stands there more than once")
