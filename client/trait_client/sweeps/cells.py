"""Cells and trials, and their identity: the digest of everything that affects the output.

A *cell* is one configuration of model, sampling and intervention; a *trial* is one cell on one prompt. A *setting* is a
cell without its seed; a *baseline* is the unsteered cell of the same model and sampling.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from trait_core.model_identity import ModelIdentity, digest
from trait_core.schema import Operation, PositionScope, Scope, Steering, SteeringTerm, Unit


@dataclass(frozen=True)
class Sampling:
    """How replies are generated."""

    system: str | None
    max_tokens: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Intervention:
    """What is done to the residual stream.

    Attributes:
        trait: The trait that is measured.
        trait_sha256: The trait's vector file, whose projection is read.
        sha256: The vector file that is applied: the trait's, or a random one.
        method: Of the trait's vector file.
        layers: 0-based decoder blocks whose output is changed, each by the coefficient.
    """

    trait: str
    trait_sha256: str
    sha256: str
    method: str
    layers: tuple[int, ...]
    coefficient: float
    unit: Unit
    operation: Operation
    scope: Scope
    preserve_norm: bool

    @property
    def is_control(self) -> bool:
        """Whether a random direction stands in for the trait's."""
        return self.sha256 != self.trait_sha256

    @property
    def layer(self) -> int | None:
        """The one steered layer; None where several are."""
        return self.layers[0] if len(self.layers) == 1 else None

    @property
    def read_layer(self) -> int:
        """The layer that replies are projected on: the last one that is steered."""
        return max(self.layers)

    @property
    def scope_text(self) -> str:
        """The scope as the table holds it: a name, or `positions[from, to)`."""
        if isinstance(self.scope, PositionScope):
            start, stop = self.scope.positions
            return f"positions[{start}, {stop})"
        return self.scope

    def steering(self) -> Steering:
        """As a request carries it."""
        term = SteeringTerm(
            vector=self.sha256,
            coefficient=self.coefficient,
            unit=self.unit,
            layers=list(self.layers),
            operation=self.operation,
            scope=self.scope,
            preserve_norm=self.preserve_norm,
        )
        return Steering(terms=[term])


@dataclass(frozen=True)
class Cell:
    """One configuration; without an intervention it is a baseline."""

    model: ModelIdentity
    sampling: Sampling
    intervention: Intervention | None = None

    @property
    def kind(self) -> Literal["baseline", "steered", "control"]:
        """What the cell is for."""
        if self.intervention is None:
            return "baseline"
        return "control" if self.intervention.is_control else "steered"

    @cached_property
    def cell_id(self) -> str:
        """Identity."""
        return self._digest(self.sampling.seed, self.intervention)

    @cached_property
    def setting_id(self) -> str:
        """Identity without the seed."""
        return self._digest(None, self.intervention)

    @cached_property
    def control_of(self) -> str | None:
        """A control's steered setting."""
        if self.intervention is None or not self.intervention.is_control:
            return None
        real = dataclasses.replace(self.intervention, sha256=self.intervention.trait_sha256)
        return self._digest(None, real)

    @cached_property
    def baseline(self) -> "Cell":
        """The unsteered cell of the same model and sampling."""
        return self if self.intervention is None else Cell(self.model, self.sampling)

    def _digest(self, seed: int | None, intervention: Intervention | None) -> str:
        sampling = dataclasses.asdict(self.sampling) | {"seed": seed}
        change = None
        if intervention is not None:
            change = {field.name: getattr(intervention, field.name) for field in dataclasses.fields(intervention)}
            change["scope"] = intervention.scope_text
            layers = change.pop("layers")
            change["layer"] = layers[0] if len(layers) == 1 else layers
        return digest([self.model.as_identity(), sampling, change])


@dataclass(frozen=True)
class Trial:
    """One cell on one prompt."""

    cell: Cell
    prompt: str

    @cached_property
    def prompt_id(self) -> str:
        """Identity of the prompt."""
        return digest(self.prompt)

    @cached_property
    def trial_id(self) -> str:
        """Identity."""
        return digest([self.cell.cell_id, self.prompt_id])
