"""Cells and trials, and their ids: digests of everything that affects the output.

A *cell* is one configuration of model, sampling and intervention; a *trial* is one cell on one prompt. A *setting* is a
cell without its seed; a *baseline* is the unsteered cell of the same model and sampling.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from trait_core.model_identity import ModelIdentity, digest
from trait_core.schema import RESID_POST, HookPoint, PositionScope, Steering, SteeringTerm

_HASHED = frozenset({"coefficient", "unit", "operation", "scope", "preserve_norm"})
"""Fields of a term that every id contains, whatever their values."""

COLUMN_OF = {"at": "hook_point", "when": "gate"}
"""Fields of a term whose columns have other names: these are words of SQL."""

_SAMPLING_ADDED = frozenset({"raw", "chat_template_kwargs"})
"""Fields of a sampling that ids contain only where they are set."""


@dataclass(frozen=True)
class Sampling:
    """How prompts are sent, and options of generation.

    Attributes:
        raw: The prompt is continued as it is; no chat template is used.
        chat_template_kwargs: Variables of the chat template as JSON with sorted names; None for none.
    """

    system: str | None
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    raw: bool = False
    chat_template_kwargs: str | None = None

    @property
    def template_kwargs(self) -> dict[str, Any] | None:
        """Variables of the chat template; None for none."""
        return json.loads(self.chat_template_kwargs) if self.chat_template_kwargs is not None else None

    def as_identity(self) -> dict[str, Any]:
        """Values hashed into the ids; what was added later is left out where it is not used, so that stored ids stay the same."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in _SAMPLING_ADDED or value}


@dataclass(frozen=True)
class Intervention:
    """A change of the residual stream, and the trait by which its effect is measured.

    Attributes:
        trait: The trait that is measured.
        trait_sha256: The trait's vector file; replies are projected on its direction.
        method: Extraction method of the trait's vector file.
        term: The change as a request sends it: its vector is the hash of the trait's file or of a random one; its layers are
            set; a gate's vector is a hash as well, and its layer is set.
        gate: The term's gate as text, by the name of its vector; None: no gate.
    """

    trait: str
    trait_sha256: str
    method: str
    term: SteeringTerm
    gate: str | None = None

    @property
    def sha256(self) -> str:
        """The vector file that is applied: the trait's, or a random one."""
        return self.term.reference

    @property
    def is_control(self) -> bool:
        """True if a random direction replaces the trait's."""
        return self.sha256 != self.trait_sha256

    @property
    def layers(self) -> list[int]:
        """0-based decoder blocks whose output is changed, each by the coefficient."""
        assert self.term.layers is not None, "set by the planner"
        return self.term.layers

    @property
    def at(self) -> HookPoint:
        """The place in a block that is changed, and that replies are projected at."""
        return self.term.at or RESID_POST

    @property
    def layer(self) -> int | None:
        """The one steered layer; None where several are."""
        return self.layers[0] if len(self.layers) == 1 else None

    @property
    def read_layer(self) -> int:
        """The layer that replies are projected on: the last one that is steered."""
        return max(self.layers)

    def steering(self) -> Steering:
        """The steering block of a request."""
        return Steering(terms=[self.term])

    def columns(self) -> dict[str, Any]:
        """Values of its columns in the table `cells`; the scope is a name, a selector, or `positions[from, to)`."""
        values = self.term.model_dump(exclude={"vector"}) | {
            "scope": self._scope_text(),
            "at": self.at,
            "when": self.gate,
        }
        own = {"trait": self.trait, "trait_sha256": self.trait_sha256, "sha256": self.sha256, "method": self.method}
        layers = {"layer": self.layer, "read_layer": self.read_layer}
        gate = {"gate_sha256": self.term.when.vector if self.term.when is not None else None}
        return own | {COLUMN_OF.get(name, name): value for name, value in values.items()} | layers | gate

    def as_identity(self) -> dict[str, Any]:
        """Values hashed into the ids; a newer field is left out at its default, so that stored ids stay the same."""
        fields = type(self.term).model_fields
        values = self.term.model_dump(exclude={"vector", "layers"}) | {"scope": self._scope_text()}
        if self.term.when is not None:
            values["when"] = self.term.when.model_dump(exclude_defaults=True)
        own = {"trait": self.trait, "trait_sha256": self.trait_sha256, "sha256": self.sha256, "method": self.method}
        used = {name: value for name, value in values.items() if name in _HASHED or value != fields[name].default}
        return own | {"layer": self.layer if self.layer is not None else self.layers} | used

    def with_trait_vector(self) -> "Intervention":
        """The same change by the trait's own direction, for a control."""
        term = self.term.model_copy(update={"vector": self.trait_sha256})
        return dataclasses.replace(self, term=term)

    def _scope_text(self) -> str:
        if isinstance(self.term.scope, PositionScope):
            start, stop = self.term.scope.positions
            return f"positions[{start}, {stop})"
        return self.term.scope


@dataclass(frozen=True)
class Cell:
    """One configuration; without an intervention it is a baseline."""

    model: ModelIdentity
    sampling: Sampling
    intervention: Intervention | None = None

    @property
    def kind(self) -> Literal["baseline", "steered", "control"]:
        """Unsteered, steered by the trait's direction, or by a random one."""
        if self.intervention is None:
            return "baseline"
        return "control" if self.intervention.is_control else "steered"

    @cached_property
    def cell_id(self) -> str:
        """Id of the cell."""
        return self._digest(self.sampling.seed, self.intervention)

    @cached_property
    def setting_id(self) -> str:
        """Id of the cell without its seed."""
        return self._digest(None, self.intervention)

    @cached_property
    def control_of(self) -> str | None:
        """For a control, the id of the steered setting."""
        if self.intervention is None or not self.intervention.is_control:
            return None
        return self._digest(None, self.intervention.with_trait_vector())

    @cached_property
    def baseline(self) -> "Cell":
        """The unsteered cell of the same model and sampling."""
        return self if self.intervention is None else Cell(self.model, self.sampling)

    def _digest(self, seed: int | None, intervention: Intervention | None) -> str:
        sampling = self.sampling.as_identity() | {"seed": seed}
        change = intervention.as_identity() if intervention is not None else None
        return digest([self.model.as_identity(), sampling, change])


@dataclass(frozen=True)
class Trial:
    """One cell on one prompt."""

    cell: Cell
    prompt: str

    @cached_property
    def prompt_id(self) -> str:
        """Id of the prompt."""
        return digest(self.prompt)

    @cached_property
    def trial_id(self) -> str:
        """Id of the trial."""
        return digest([self.cell.cell_id, self.prompt_id])
