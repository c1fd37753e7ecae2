"""Experiments: definitions of sweeps, read from `experiment.toml`.

::

    name = "layers"
    traits = ["refusal", "sycophancy"]
    datasets = "../../datasets/traits"   # relative to this file
    methods = ["mean_diff"]
    layers = [9, 13, [9, 13, 17]]        # a list steers its layers together; or "chosen": each vector file's choice
    coefficients = [1.0, 2.0]
    n_prompts = 12                       # the first of each trait's questions; or prompts = ["...", ...]
    max_tokens = 48
    # raw = true                         # a base model: prompts are sent as they are
    # chat_template_kwargs = {enable_thinking = false}
    # scope = ["all", "response[:16]"]   # steered token positions
    # at = ["resid_post", "mlp_out"]     # the place in a block; each trait needs a vector that was extracted there
    # when = ["none", "harmful@9>0.5"]   # ungated, and only where the projection on `harmful` is above 0.5

    [control]
    random_directions = 4

    [damage]                             # KL and accuracy on neutral texts, for every setting
    passages = 20                        # of 60; all if it is left out
    questions = 25                       # of 100, each read four times

    [precision.int8]                     # a service for each precision, in turn: see trait_client.sweeps.experiment.precision
    model = "./smollm2-w8a8"             # started by the sweep, and stopped; or url = "http://..."
    weights = "int8"                     # what GET /v1/steering must say of the loaded weights

    [judge]                              # scores by a model, see trait_client.judge.config
    url = "http://127.0.0.1:9000/v1"
    model = "judge"

    [trait.refusal]                      # this trait differs
    layers = [13]

Every trait runs on precision x adapter x method x hook point x layer x operation x scope x gate x coefficient x temperature x
top_p x seed x prompt.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from trait_client.judge.config import JudgeConfig
from trait_client.judge.rubric import COHERENCE, Rubric
from trait_client.scoring.evaluation import EvaluationSpec
from trait_client.sweeps.experiment.precision import PrecisionService
from trait_client.sweeps.experiment.section import Coefficients, Label, Layers, Name, OptionalGate, Section
from trait_client.sweeps.experiment.tables import Control, DamageSpec, TraitOverride
from trait_core.errors import DatasetError, InvalidRequestError, first_fault
from trait_core.schema import (
    NO_ADAPTER,
    ChatTemplateKwargs,
    Gate,
    HookPoint,
    Operation,
    SingleScope,
    SteeringTerm,
    Unit,
)
from trait_core.text_files import read_toml
from trait_core.traits import default_traits_folder

T = TypeVar("T")

Temperature = Annotated[float, Field(ge=0, le=10)]
TopP = Annotated[float, Field(gt=0, le=1)]

_OF_CELLS = frozenset({"layers", "operation", "at"})
"""Fields of a steering term that the grid sets for each cell, or that follow from its vector."""


class Experiment(Section):
    """Definition of a sweep.

    Attributes:
        name: Name in the table `runs`.
        traits: Traits to steer; each needs a registered vector.
        datasets: Folder of `<category>/<trait>/steering.json`; relative to the experiment's file. If it is left out and
            the default does not exist, `default_traits_folder()` is used.
        methods: Extraction methods; each needs a vector of each trait.
        layers: 0-based decoder blocks, one cell each. A list among them is one cell that steers its layers together, each
            with the coefficient. `chosen` uses the layer that each vector file recommends.
        coefficients: Coefficients in `unit`, one cell each.
        unit: Unit of the coefficients.
        operation: Operation on the projection; a list is a dimension. `ablate` ignores the coefficients and is one cell.
        scope: Steered token positions: a name, `{positions = [from, to]}`, or a selector such as `response[:16]`; a list is a
            dimension.
        at: Hook points, one cell each: `resid_post`, `attn_out`, `mlp_out`; a list is a dimension. Each trait and method needs a
            vector that was extracted there. None: wherever each trait's vector was.
        when: Gate, such as `harmful@9>0.5` or `harmful@9>0.5, latch` (`trait_core.gate_text`), or its fields as a table; `none`
            for none. A list is a dimension.
        preserve_norm: Rescale the residual stream to its norm before the change.
        n_prompts: Number of each trait's questions to use, from the first; None uses all.
        prompts: Prompts for every trait, in place of its own questions.
        seeds: Sampling seeds, one cell each; they matter at temperature > 0.
        max_tokens: Maximum tokens of a reply.
        temperature: Sampling temperature, 0 is greedy; a list is a dimension.
        top_p: Nucleus sampling; a list is a dimension.
        system: System prompt; None sends none (the chat template may have its own).
        raw: Send prompts as they are, without the chat template, for the model to continue; for base models.
        chat_template_kwargs: Variables of the chat template, such as `enable_thinking`; replies are read back after the same
            prompt.
        precision: Label of the weights' precision, None uses the one that the service reports; or a table of services by
            label.
        adapter: Label of a LoRA adapter that is part of the served model; `none` is the base model.
        adapters: Names of LoRA adapters that the service has, one cell each; `none` is the base model.
        read_with: Model that reads replies back for projections and scores: `base`, or `adapter`: the one that wrote
            them.
        control: Random directions as a control.
        damage: Measure the damage of each setting; None does not.
        judge: Judge that rates the replies; None for no judge.
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
    scope: SingleScope | Annotated[list[SingleScope], Field(min_length=1)] = "all"
    at: HookPoint | Annotated[list[HookPoint], Field(min_length=1)] | None = None
    when: OptionalGate | Annotated[list[OptionalGate], Field(min_length=1)] = None
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
    raw: bool = False
    chat_template_kwargs: ChatTemplateKwargs = None
    precision: Label | Annotated[dict[Name, PrecisionService], Field(min_length=1)] | None = None
    adapter: Label = NO_ADAPTER
    adapters: Annotated[list[Label], Field(min_length=1)] | None = None
    read_with: Literal["base", "adapter"] = "base"
    control: Control = Control()
    damage: DamageSpec | None = None
    judge: JudgeConfig | None = None
    trait: dict[Name, TraitOverride] = Field(default_factory=dict)

    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an experiment file.

        Raises:
            InvalidRequestError: The file is missing or not TOML, or a value is wrong; the message names file and key.
        """
        path = Path(path)
        try:
            values = read_toml(path)
        except DatasetError as error:
            raise InvalidRequestError(str(error), param="experiment") from error
        try:
            return cls.from_values(values, folder=path.parent)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{path}: {error}", param=error.param) from error

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path = Path()) -> Self:
        """Validate an experiment's values; `datasets` is relative to `folder`.

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
        """Folder of its file; its paths are relative to it."""
        return self._folder

    @property
    def services(self) -> dict[str, PrecisionService | None]:
        """Services by precision, in the file's order; None is the one service given to the command."""
        if isinstance(self.precision, dict):
            return dict(self.precision)
        return {self.precision or "": None}

    def on_service(self, precision: str) -> Self:
        """The experiment on one of its services."""
        return self.model_copy(update={"precision": precision}) if isinstance(self.precision, dict) else self

    @property
    def operations(self) -> list[Operation]:
        """Operations on the projection, one cell each."""
        return _listed(self.operation)

    @property
    def scopes(self) -> list[SingleScope]:
        """Steered token positions, one cell each."""
        return _listed(self.scope)

    @property
    def hook_points(self) -> list[HookPoint | None]:
        """Places in a block, one cell each; None is the place of each trait's vector."""
        return [*self.at] if isinstance(self.at, list) else [self.at]

    @property
    def gates(self) -> list[Gate | None]:
        """Conditions, one cell each; None: the term acts everywhere."""
        return _listed(self.when)

    @property
    def term_options(self) -> list[dict[str, Any]]:
        """Fields of a steering term that are keys of the experiment, except `operation` and `at`; one cell each.

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
        """Sampling temperatures, one cell each."""
        return _listed(self.temperature)

    @property
    def top_ps(self) -> list[float]:
        """Values of `top_p`, one cell each."""
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
        """Name or hash of the trait's vector if the experiment sets it; None finds one by trait and method."""
        override = self.trait.get(trait)
        return override.vector if override else None

    def _traits_folder(self) -> Path:
        folder = self._folder / self.datasets
        return folder if "datasets" in self.model_fields_set or folder.is_dir() else default_traits_folder()

    @property
    def damage_folder(self) -> Path:
        """Folder of the damage set."""
        if self.damage is not None and self.damage.folder is not None:
            return self._folder / self.damage.folder
        return self._traits_folder().parent / "damage"

    def evaluation(self, trait: str) -> EvaluationSpec:
        """The trait's questions and metric.

        Raises:
            DatasetError: The datasets do not have the trait.
        """
        return EvaluationSpec.load(self._traits_folder(), trait)

    def rubrics(self) -> dict[str, Rubric]:
        """Rubrics of the judge by trait; `*` is coherence. Empty without a judge.

        Raises:
            DatasetError: A trait has no rubric.
        """
        if self.judge is None:
            return {}
        rubrics = {trait: Rubric.load(self._traits_folder(), trait) for trait in self.traits}
        return rubrics | ({COHERENCE: Rubric.coherence()} if self.judge.coherence else {})

    def prompts_of(self, trait: str) -> list[str]:
        """Prompts of the trait.

        Raises:
            DatasetError: The datasets do not have the trait.
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
        "at",
        "when",
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
        if self.raw and (self.system is not None or self.chat_template_kwargs is not None):
            which = "system" if self.system is not None else "chat_template_kwargs"
            raise ValueError(f"{which} goes with the chat template, which raw = true does not use: give one of the two")
        several = [trait for trait in self.trait if self.trait[trait].vector is not None]
        for name, entries in (("methods", self.methods), ("at", self.hook_points)):
            if several and len(entries) > 1:
                raise ValueError(f"[trait.{several[0]}] names one vector, but {name} has {len(entries)} entries")
        return self


def _listed(value: T | list[T]) -> list[T]:
    return value if isinstance(value, list) else [value]


def _demand_distinct(values: list[Any]) -> None:
    doubled = [value for i, value in enumerate(values) if value in values[:i]]
    if doubled:
        raise ValueError(f"{doubled[0]!r} is given more than once")
