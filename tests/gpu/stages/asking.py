"""Requests of the stages, their specs, and the comparison of two answers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

N_DIRECTIONS = 256
DOSE = 0.3
"""Size of an addition, as a share of the layer's mean residual norm."""


@dataclass(frozen=True)
class Shape:
    """The model's numbers that specs are made from.

    Args:
        norms: `(n_layers,)` mean norm of the residual stream, residual units.
        bank: Digests of the directions in the engine's vector bank.
        vocabulary: Tokens of the model.
    """

    n_layers: int
    d_model: int
    vocabulary: int
    norms: list[float]
    bank: list[str]

    def dose(self, layer: int, share: float = DOSE) -> float:
        """A coefficient for a layer, residual units."""
        return share * self.norms[layer]


@dataclass(frozen=True)
class Request:
    """One greedy request.

    Args:
        token_ids: Prompt.
        spec: A `RequestSpec` in JSON; None asks for nothing.
        max_tokens: Tokens of the reply, exactly, unless `stop_tokens` or its spec end it.
        stop_tokens: Token ids that end the reply.
        logprobs: Likeliest tokens whose log-probability is returned; 0: none.
        joins_at: Engine step before which it is added (of a stepwise run).
        leaves_at: Engine step before which it is aborted; None: it runs to its end.
    """

    token_ids: list[int]
    spec: str | None = None
    max_tokens: int = 8
    stop_tokens: tuple[int, ...] = ()
    logprobs: int = 5
    joins_at: int = 0
    leaves_at: int | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to one request.

    Args:
        logprobs: For each generated token, token -> log-probability of the likeliest ones.
        report: The worker's report; None if the request asked for nothing.
        mean: `(n_pools, n_layers, d_model)` float32; None without a capture.
        count: `(n_pools,)` positions of each pool; None without a capture.
        projections: `(n_positions, n_columns)` float32; None without a monitor.
    """

    token_ids: list[int]
    text: str
    finish_reason: str | None
    logprobs: list[dict[int, float]]
    report: Any | None = None
    mean: np.ndarray | None = None
    count: list[int] | None = None
    projections: np.ndarray | None = None


def directions(d_model: int, n: int = N_DIRECTIONS) -> dict[str, bytes]:
    """Digest -> float32 bytes of `n` random unit directions."""
    rows = np.random.default_rng(0).normal(size=(n, d_model)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return {hashlib.sha256(row.tobytes()).hexdigest(): row.tobytes() for row in rows}


def prompts(shape: Shape, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random prompts of given lengths, free of the special tokens at both ends of most vocabularies."""
    random = np.random.default_rng(seed)
    return [random.integers(shape.vocabulary // 10, shape.vocabulary // 2, size=n).tolist() for n in lengths]


def configuration(shape: Shape, key: str, c: int, *, operations: bool = True, **further: Any) -> str:
    """Configuration `c`: one term, distinct in vector, layer and coefficient.

    Args:
        shape: The model's shape.
        key: Key of the request's spec.
        c: Number of the configuration.
        operations: Distinct in operation and scope too; else an addition on all positions.
        **further: Other fields of `RequestSpec`.
    """
    layer = (7 * c) % shape.n_layers
    value = shape.dose(layer) * (1 + c / N_DIRECTIONS)
    term = {"layer": layer, "direction": shape.bank[c % len(shape.bank)], "value": value}
    kinds: list[dict[str, Any]] = [
        {},
        {"scope": "generated"},
        {"operation": "floor"},
        {"preserve_norm": True},
        {"operation": "set"},
        {"scope": "prompt"},
    ]
    return spec(key, terms=[term | (kinds[c % len(kinds)] if operations else {})], **further)


def every_layer(shape: Shape, key: str, c: int) -> str:
    """An addition on every layer."""
    return spec(
        key,
        terms=[
            {
                "layer": layer,
                "direction": shape.bank[(c + layer) % len(shape.bank)],
                "value": shape.dose(layer) / shape.n_layers,
            }
            for layer in range(shape.n_layers)
        ],
    )


def monitored(shape: Shape, key: str, first: int, n: int, **column: Any) -> str:
    """`n` directions monitored from the last prompt position on, spread over the layers."""
    columns = [
        {"layer": (3 * j + 2) % shape.n_layers, "direction": shape.bank[j % len(shape.bank)], **column}
        for j in range(first, first + n)
    ]
    return spec(key, monitor={"columns": columns, "prompt": False})


def spec(key: str, **fields: Any) -> str:
    """A `RequestSpec` in JSON."""
    from trait_service.engine.spec import RequestSpec

    return RequestSpec.model_validate({"key": key, **fields}).model_dump_json()


CAPTURE: Mapping[str, Any] = {"positions": ["all[:]"]}
"""A pool over all positions, on every layer."""


@dataclass
class Gaps:
    """Differences of log-probabilities between answers that should be equal.

    Two greedy replies may choose differently where two tokens are as good as equal. Both then name both tokens among
    their likeliest, with nearly the same log-probabilities: that step is still compared, and what follows is not.

    Args:
        compared: Generated tokens that were compared.
        generated: Generated tokens of the shorter answers.
    """

    values: list[float] = field(default_factory=list)
    compared: int = 0
    generated: int = 0

    def add(self, one: Answer, other: Answer) -> "Gaps":
        """Compare two answers, up to and including their first different token."""
        self.generated += min(len(one.token_ids), len(other.token_ids))
        if len(one.token_ids) != len(other.token_ids):
            self.values.append(float("inf"))
        for a, b, chosen_a, chosen_b in zip(one.logprobs, other.logprobs, one.token_ids, other.token_ids, strict=False):
            shared = a.keys() & b.keys()
            known = {chosen_a, chosen_b} <= shared
            self.values += [_distance(a[token], b[token]) for token in shared] if known else [float("inf")]
            self.compared += 1
            if chosen_a != chosen_b:
                break
        return self

    @property
    def mean(self) -> float:
        """Mean |delta log-probability|; 0 if nothing was compared."""
        return float(np.mean(self.values)) if self.values else 0.0

    @property
    def largest(self) -> float:
        """Largest |delta log-probability|; 0 if nothing was compared."""
        return max(self.values, default=0.0)

    @property
    def share(self) -> float:
        """Share of the generated tokens that were compared."""
        return self.compared / self.generated if self.generated else 1.0


def _distance(a: float, b: float) -> float:
    return 0.0 if a == b else abs(a - b)  # both may be minus infinity, where a request was ended


def gaps(ones: Sequence[Answer], others: Sequence[Answer]) -> Gaps:
    """Compare answers pairwise."""
    found = Gaps()
    for one, other in zip(ones, others, strict=True):
        found.add(one, other)
    return found


def error_of(answer: Answer) -> str | None:
    """The reason why a request could not be steered as asked."""
    return None if answer.report is None else answer.report.error
