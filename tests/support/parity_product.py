"""Every operation in every scope, at every hook point, under every gate: what an engine must do, by transformers.

All cases of an engine are one batch of one prompt. The reference reads the engine's own tokens, so that a tie between two
tokens fails no test: a forward pass without steering tells where each gate is open (it is read at or below the only steered
layer), and a second one, with a change written out for each row, gives the log-probabilities.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from engine_harness import Direction, EngineResult, Job, Reference, Req, direction
from trait_core.schema import RESID_POST, HookPoint
from trait_service.engine.spec import GateSpec, RequestSpec, TermSpec

PROMPT = [5, 306, 7, 408, 311, 10, 213, 14, 15, 222, 23, 60, 17]
N = len(PROMPT)
N_TOKENS = 14
"""The steps of `response[8::4]` are felt from the tenth token on."""
LAYER = 2
TOLERANCE = 1e-3
"""Largest difference of a log-probability."""
UNDECIDED = 1e-4
"""Distance of a projection from a gate's bound, relative to the bound's own spread, that rounding may cross."""

OPERATIONS = ("add", "ablate", "set", "scale", "floor", "ceiling", "replace", "rotate", "subspace", "preserve_norm")
SCOPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all": lambda at: at >= 0,
    "prompt": lambda at: at < N,
    "generated": lambda at: at >= N - 1,
    "last_prompt": lambda at: at == N - 1,
    "positions": lambda at: (at >= 2) & (at < N + 1),
    "prompt[-4:]": lambda at: (at >= N - 4) & (at < N),
    "response[:8]": lambda at: (at >= N) & (at < N + 8),
    "response[8::4]": lambda at: (at >= N + 8) & ((at - N) % 4 == 0),
    "prompt[:3], response[1::2]": lambda at: (at < 3) | ((at > N) & ((at - N) % 2 == 1)),
    "all[:] except prompt[2:5], response[3]": lambda at: ((at < 2) | (at >= 5)) & (at != N + 3),
}
"""Scope -> the absolute positions that it names, written out."""
HOOK_POINTS: tuple[HookPoint, ...] = (RESID_POST, "attn_out", "mlp_out")
GATES = ("none", "token above", "token below", "latch", "prompt")


@dataclass(frozen=True)
class Case:
    """One combination; `turn` picks one of two bounds for its gate."""

    operation: str
    scope: str
    at: HookPoint
    gate: str
    turn: int

    @property
    def name(self) -> str:
        return f"{self.operation} | {self.scope} | {self.at} | {self.gate}"

    @property
    def gate_layer(self) -> int:
        """The last layer on which its gate may be read."""
        return LAYER - (self.at != RESID_POST) - (self.gate in ("latch", "prompt"))


def whole() -> list[Case]:
    """All combinations."""
    combined = itertools.product(OPERATIONS, SCOPES, HOOK_POINTS, GATES)
    return [Case(*values, turn=i // len(GATES) % 3 // 2) for i, values in enumerate(combined)]


def covering(seed: int) -> list[Case]:
    """Combinations in which each pair of values occurs."""
    draw, dimensions = random.Random(seed), (OPERATIONS, tuple(SCOPES), HOOK_POINTS, GATES)
    missing = {
        ((i, a), (j, b))
        for i, j in itertools.combinations(range(len(dimensions)), 2)
        for a, b in itertools.product(dimensions[i], dimensions[j])
    }
    cases: list[Case] = []
    while missing:
        pair = dict(draw.choice(sorted(missing)))
        drawn = [[pair.get(i, draw.choice(values)) for i, values in enumerate(dimensions)] for _ in range(30)]
        best = max(drawn, key=lambda values: len(missing & _pairs(values)))
        missing -= _pairs(best)
        cases.append(Case(*best, turn=len(cases) % 3 // 2))
    return cases


def _pairs(values: Sequence[str]) -> set:
    return set(itertools.combinations(enumerate(values), 2))


@dataclass(frozen=True)
class Outcome:
    """A case as an engine ran it.

    Args:
        error: Largest difference of a log-probability from the reference's.
        effect: Largest change of a log-probability by the steering, in the reference.
        acted: Prompt positions and generated positions at which it must act.
    """

    case: Case
    error: float
    effect: float
    acted: tuple[int, int]


class Product:
    """The cases of one model.

    Args:
        reference: The model in transformers.
        branches: Hook points and their modules in transformers' blocks.
        cases: What to ask of an engine.
    """

    def __init__(self, reference: Reference, branches: Mapping[HookPoint, str], cases: list[Case]) -> None:
        self.reference, self.cases = reference, cases
        self.paths = {RESID_POST: "", **branches}

    @cached_property
    def planes(self) -> dict[HookPoint, tuple[Direction, Direction, float]]:
        """For each hook point a direction along which its tensor lies, one orthogonal to that, and the length of its mean."""
        found = {}
        for at, path in self.paths.items():
            mean = self.reference.streams(PROMPT, path)[LAYER, 2:].mean(0).numpy()
            length = float(np.linalg.norm(mean))
            first = mean / length
            second = direction(first.size, seed=11).array
            second = second - (second @ first) * first
            found[at] = Direction(first), Direction(second / np.linalg.norm(second)), length
        return found

    @cached_property
    def of_gate(self) -> Direction:
        return direction(self.reference.d_model, seed=12)

    @cached_property
    def projections(self) -> np.ndarray:
        """`(n_layers, n_prompt)`: those of the prompt on the gates' direction."""
        return (self.reference.streams(PROMPT) @ torch.from_numpy(self.of_gate.array)).numpy()

    def bound(self, case: Case) -> float:
        """The bound of a case's gate: in the widest gap of the middle; a latch's second one is past the whole prompt."""
        values = self.projections[case.gate_layer]
        if case.gate == "prompt":
            return float(values.mean() + (0.1 if case.turn else -0.1) * values.std())
        if case.gate == "latch" and case.turn:
            return float(values.max() + 0.05 * values.std())
        middle = np.sort(values)[len(values) // 4 : -(len(values) // 4)]
        widest = int(np.diff(middle).argmax())
        return float(middle[widest] + middle[widest + 1]) / 2

    # ------------------------------------------------------------------------------------------------- what is asked

    def spec(self, i: int, case: Case) -> RequestSpec:
        """The request of a case."""
        first, second, p = self.planes[case.at]
        when = None
        if case.gate != "none":
            hold = case.gate.partition(" ")[0]
            side = "below" if case.gate.endswith("below") else "above"
            bound = {side: self.bound(case)}
            when = GateSpec(layer=case.gate_layer, direction=self.of_gate.sha256, hold=hold, **bound)
        scope = [2, N + 1] if case.scope == "positions" else case.scope
        operation = {"subspace": "ablate", "preserve_norm": "add"}.get(case.operation, case.operation)
        fields = {"layer": LAYER, "at": case.at, "operation": operation, "scope": scope, "when": when}
        value = NUMBERS[case.operation] * (1.0 if operation in ("scale", "rotate") else p)
        made = [first, second] if case.operation == "subspace" else [first]
        keeps = case.operation == "preserve_norm"
        terms = [TermSpec(direction=d.sha256, value=value, preserve_norm=keeps, **fields) for d in made]
        return RequestSpec(key=f"{i}", terms=terms)

    def requests(self) -> list[Req]:
        return [Req(PROMPT, self.spec(i, case).model_dump_json(), N_TOKENS) for i, case in enumerate(self.cases)]

    def job(self, path: str, **fields) -> Job:
        """All cases in one batch, with an unsteered neighbour at its end."""
        directions = [self.of_gate, *(d for first, second, _ in self.planes.values() for d in (first, second))]
        batch = [*self.requests(), Req(PROMPT, max_tokens=N_TOKENS)]
        return Job(path, [batch], directions, settings={"hook_points": list(self.paths)[1:]}, **fields)

    # ------------------------------------------------------------------------------------------------- what it must do

    def outcomes(self, result: EngineResult, at_once: int = 48) -> Iterator[Outcome]:
        """Every case but those in which a projection is so near to its gate's bound that rounding decides."""
        for start in range(0, len(self.cases), at_once):
            cases = self.cases[start : start + at_once]
            outputs = result.batches[0][start : start + len(cases)]
            ids = torch.tensor([[*PROMPT, *output["token_ids"][:-1]] for output in outputs])
            plain, gates = self._unsteered(ids)
            masks = [self._mask(case, gates[:, row]) for row, case in enumerate(cases)]
            steered = self._steered(ids, cases, [np.zeros(ids.shape[1], bool) if m is None else m for m in masks])
            for row, (case, mask, output) in enumerate(zip(cases, masks, outputs, strict=True)):
                if mask is not None:
                    effect = float((steered[row] - plain[row]).abs().max())
                    yield Outcome(
                        case, _error(output, steered[row]), effect, (int(mask[:N].sum()), int(mask[N:].sum()))
                    )

    @torch.no_grad()
    def _logprobs(self, ids: torch.Tensor) -> torch.Tensor:
        logits = self.reference.model(ids, use_cache=False, logits_to_keep=N_TOKENS).logits
        return torch.log_softmax(logits.float(), -1)

    def _unsteered(self, ids: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Log-probabilities `(n_rows, N_TOKENS, vocabulary)`, and projections `(LAYER + 1, n_rows, n_positions)` for the gates."""
        found: dict[int, torch.Tensor] = {}

        def keep(layer: int):
            return lambda _module, _args, output: found.update(
                {layer: (output[0] if isinstance(output, tuple) else output) @ torch.from_numpy(self.of_gate.array)}
            )

        handles = [self.reference.module(i).register_forward_hook(keep(i)) for i in range(LAYER + 1)]
        try:
            logprobs = self._logprobs(ids)
        finally:
            for handle in handles:
                handle.remove()
        return logprobs, torch.stack([found[i] for i in range(LAYER + 1)]).numpy()

    def _mask(self, case: Case, projections: np.ndarray) -> np.ndarray | None:
        """`(n_positions,)`: where a case acts; None if rounding decides."""
        at = np.arange(projections.shape[1])
        scope = SCOPES[case.scope](at)
        if case.gate == "none":
            return scope
        seen, bound = projections[case.gate_layer], self.bound(case)
        decides = seen[:N].mean(keepdims=True) if case.gate == "prompt" else seen
        if np.abs(decides - bound).min() < UNDECIDED * self.projections[case.gate_layer].std():
            return None
        past = decides < bound if case.gate.endswith("below") else decides > bound
        if case.gate == "latch":
            past = np.logical_or.accumulate(past)
        if case.gate == "prompt":
            past = past & (at >= N - 1)
        return scope & past

    def _steered(self, ids: torch.Tensor, cases: Sequence[Case], masks: Sequence[np.ndarray]) -> torch.Tensor:
        """Log-probabilities with each row's own change, `(n_rows, N_TOKENS, vocabulary)`."""

        def change(at: HookPoint):
            def hook(_module, _args, output):
                tensor = (output[0] if isinstance(output, tuple) else output).clone()
                rows = tensor.reshape(*ids.shape, -1)  # some modules fold the batch into the positions
                for row, (case, mask) in enumerate(zip(cases, masks, strict=True)):
                    if case.at == at:
                        where = torch.from_numpy(mask)
                        rows[row, where] = self._changed(case, rows[row, where])
                return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

            return hook

        handles = [
            self.reference.module((LAYER, path)).register_forward_hook(change(at)) for at, path in self.paths.items()
        ]
        try:
            return self._logprobs(ids)
        finally:
            for handle in handles:
                handle.remove()

    def _changed(self, case: Case, h: torch.Tensor) -> torch.Tensor:
        """A case's operation on rows `(n, d_model)`, by its formula."""
        first, second, p = self.planes[case.at]
        d, other = torch.from_numpy(first.array), torch.from_numpy(second.array)
        number, along = NUMBERS[case.operation], (h @ d)[:, None]
        match case.operation:
            case "add":
                return h + number * p * d
            case "ablate":
                return h - along * d
            case "set":
                return h + (number * p - along) * d
            case "scale":
                return h + (number - 1) * along * d
            case "floor":
                return h + torch.clamp(number * p - along, min=0) * d
            case "ceiling":
                return h + torch.clamp(number * p - along, max=0) * d
            case "replace":
                return (number * p * d).expand_as(h)
            case "rotate":
                return turned(h, d, number)
            case "subspace":
                return h - along * d - (h @ other)[:, None] * other
        moved = h + number * p * d
        return moved * (h.norm(dim=-1) / moved.norm(dim=-1))[:, None]


NUMBERS = {
    "add": 0.8, "ablate": 0.0, "set": 0.3, "scale": -0.4, "floor": 1.6, "ceiling": 0.4, "replace": 1.5, "rotate": -35.0,
    "subspace": 0.0, "preserve_norm": -1.2,
}  # fmt: skip
"""Operation -> its number: a factor, degrees, or in lengths of the mean."""


def turned(h: torch.Tensor, d: torch.Tensor, degrees: float) -> torch.Tensor:
    """Each row turned towards d, written with two orthonormal vectors."""
    angle = torch.tensor(degrees).deg2rad()
    first = torch.nn.functional.normalize(h, dim=-1)
    second = torch.nn.functional.normalize(d - (first @ d)[:, None] * first, dim=-1)
    return h.norm(dim=-1, keepdim=True) * (angle.cos() * first + angle.sin() * second)


def _error(output: dict, expected: torch.Tensor) -> float:
    """Largest difference of the engine's log-probabilities from `(N_TOKENS, vocabulary)`, and of its tokens from the likeliest."""
    error = 0.0
    for step, (token, logprobs) in enumerate(zip(output["token_ids"], output["logprobs"], strict=True)):
        of_top = max(abs(value - float(expected[step, int(other)])) for other, value in logprobs.items())
        error = max(error, of_top, float(expected[step].max() - expected[step, token]))
    return error
