"""Gates by transformers: where a term with a gate acts, from the hidden states of the same forward pass."""

from dataclasses import dataclass

import numpy as np
import torch

HOLDS = ("token", "latch", "prompt")


@dataclass(frozen=True)
class GatedRun:
    """A greedy reply under a term with a gate.

    Args:
        bound: The gate is open above it, residual units.
        acts: `(n_positions,)` bool: whether the gate is open at each position that goes through the model.
        tokens: Generated tokens.
        logprobs: `(n_tokens, n_vocabulary)`.
    """

    bound: float
    acts: np.ndarray
    tokens: list[int]
    logprobs: torch.Tensor


def gated_run(reference, ids, n_tokens, hold, read, pushed) -> GatedRun:
    """Generate with a hook on two blocks.

    Args:
        reference: `engine_harness.Reference`.
        ids: The prompt.
        n_tokens: Tokens to generate.
        hold: How the gate holds.
        read: Layer and `(d_model,)` direction of the gate.
        pushed: Layer above that, and `(d_model,)` what is added there.
    """
    layer, direction = read
    bound = _bound(hold, reference.streams(ids)[layer] @ direction)
    acts = torch.empty(0)

    def keep(stream, _positions):
        nonlocal acts
        acts = _open(hold, stream @ direction, bound, len(ids))
        return stream

    def push(stream, _positions):
        return torch.where(acts[:, None], stream + pushed[1], stream)

    tokens, logprobs = reference.greedy(ids, n_tokens, {layer: keep, pushed[0]: push})
    return GatedRun(bound, acts.numpy(), tokens, logprobs)


def open_at(reference, prompt, tokens, hold, bound, read) -> np.ndarray:
    """Where a gate is open, `(n_positions,)` bool, when a prompt and its reply go through the model without steering.

    That is what the gate sees as well where nothing is steered on its layer or below.

    Args:
        reference: `engine_harness.Reference`.
        prompt: Token ids.
        tokens: The reply; its last token never goes through the model.
        hold: How the gate holds.
        bound: It is open above it, residual units.
        read: Layer and `(d_model,)` direction of the gate.
    """
    layer, direction = read
    projections = reference.streams([*prompt, *tokens[:-1]])[layer] @ direction
    return _open(hold, projections, bound, len(prompt)).numpy()


def _bound(hold: str, projections: torch.Tensor) -> float:
    """A bound that some positions are past, halfway in a gap that rounding does not cross."""
    if hold == "prompt":
        return float(projections.mean()) - 0.05
    if hold == "latch":
        # The last position that is above all before it is the first one past the bound.
        highest = projections.cummax(0).values
        at = int((highest.diff() > 0).nonzero()[-1]) + 1
        return float(highest[at - 1] + highest[at]) / 2
    values = projections.sort().values
    middle = values[len(values) // 4 : 3 * len(values) // 4]
    at = int(middle.diff().argmax())
    return float(middle[at] + middle[at + 1]) / 2


def _open(hold: str, projections: torch.Tensor, bound: float, n_prompt: int) -> torch.Tensor:
    """Where a gate is open, by the definition of its way to hold."""
    past = projections > bound
    if hold == "token":
        return past
    if hold == "latch":
        return past.cumsum(0) > 0
    return (torch.arange(len(past)) >= n_prompt - 1) & (projections[:n_prompt].mean() > bound)
