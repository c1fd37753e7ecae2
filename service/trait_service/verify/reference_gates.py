"""Gates of the reference: where a term acts, from the streams of the same forward pass."""

from collections.abc import Sequence

import torch

from trait_service.engine.spec import GateSpec, TermSpec
from trait_service.verify.probe import Direction


def open_at(gate: GateSpec, projections: torch.Tensor, n_prompt: int) -> torch.Tensor:
    """Positions at which a gate is open, `(n_tokens,)` bool, by the definition of its way to hold.

    Args:
        gate: The gate.
        projections: `(n_tokens,)` of the gate's layer, before any term acts there.
        n_prompt: Length of the prompt.
    """

    def past(value: torch.Tensor) -> torch.Tensor:
        return value > gate.above if gate.above is not None else value < torch.tensor(gate.below)

    if gate.hold == "token":
        return past(projections)
    if gate.hold == "latch":
        return past(projections).cumsum(0) > 0
    return (torch.arange(len(projections)) >= n_prompt - 1) & past(projections[:n_prompt].mean())


class Gates:
    """The gates of a request's terms in one forward pass: each is read where its layer passes.

    Args:
        terms: The request's terms.
        directions: Hash -> direction.
        n_prompt: Length of the prompt.
    """

    def __init__(self, terms: Sequence[TermSpec], directions: dict[str, Direction], n_prompt: int) -> None:
        self._gates = [term.when for term in terms if term.when is not None]
        self._directions = directions
        self._n_prompt = n_prompt
        self._open: dict[str, torch.Tensor] = {}

    def read(self, layer: int, stream: torch.Tensor) -> None:
        """Read the gates of a layer from its output, `(n_tokens, d_model)`, before its terms act."""
        for gate in self._gates:
            if gate.layer == layer:
                unit = torch.from_numpy(self._directions[gate.direction].array)
                self._open[gate.model_dump_json()] = open_at(gate, stream @ unit, self._n_prompt)

    def acts(self, term: TermSpec, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """`after` where the term's gate is open or where it has none, else `before`; `(n_tokens, d_model)`."""
        if term.when is None:
            return after
        return torch.where(self._open[term.when.model_dump_json()][:, None], after, before)
