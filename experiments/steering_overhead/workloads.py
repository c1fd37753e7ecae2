"""The benchmark's work: prompts of random tokens, and the spec of each request in each variant."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from trait_service.engine.spec import CaptureSpec, GateSpec, LensSpec, MonitorColumn, MonitorSpec, RequestSpec, TermSpec

STOCK = "stock"
CONFIGURATIONS = (1, 8, 64, 256)
N_MONITORED = 8
RELATIVE_DOSE = 0.1
ALWAYS = -1e6
"""A gate's bound that every projection is above: the cost of the gate is measured, and the work stays the same."""

# The sweep: every configuration steers every prompt; replies end where the model ends them.
N_CONFIGURATIONS, N_PROMPTS, N_TOKENS = 8, 8, 24
QUESTIONS = Path(__file__).parents[2] / "datasets/traits/alignment/refusal/steering.json"


@dataclass(frozen=True)
class Workload:
    """A batch of equal requests.

    Args:
        n_requests: All submitted at once.
        n_prompt: Random tokens of each prompt.
        n_generated: Tokens of each reply, exactly.
    """

    name: str
    n_requests: int
    n_prompt: int
    n_generated: int

    @property
    def n_tokens(self) -> int:
        """Tokens that go through the model."""
        return self.n_requests * (self.n_prompt + self.n_generated - 1)

    def prompts(self, run: int, n_vocabulary: int) -> list[list[int]]:
        """`n_requests` prompts; equal for equal `run`."""
        ids = np.random.default_rng(run).integers(1000, n_vocabulary, size=(self.n_requests, self.n_prompt))
        prompts: list[list[int]] = ids.tolist()
        return prompts


TERM_VARIANTS = ("configurations", "gated", "latched", "replace", "rotate", "mlp_out")
"""Variants of one term a request."""

WORKLOADS = {
    "decode": Workload("decode", n_requests=256, n_prompt=4, n_generated=9),
    "prefill": Workload("prefill", n_requests=16, n_prompt=256, n_generated=1),
    "mixed": Workload("mixed", n_requests=64, n_prompt=64, n_generated=17),
}


@dataclass(frozen=True)
class Model:
    """Shape of the model, and the mean token norm at each layer, for doses."""

    n_layers: int
    d_model: int
    norms: list[float]


def directions(model: Model, n: int) -> list[bytes]:
    """`n` random unit directions, float32 bytes."""
    rows = np.random.default_rng(0).normal(size=(n, model.d_model)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [row.tobytes() for row in rows]


def digest(direction: bytes) -> str:
    """The direction's name in the vector bank."""
    return hashlib.sha256(direction).hexdigest()


def specs(variant: str, workload: Workload, model: Model, bank: list[str]) -> list[RequestSpec | None]:
    """Make the spec of each request of a variant.

    Args:
        variant: `idle`, `capture`, `lens`, `monitor` or `monitor_<N>` for N directions, `all_layers`, or, of `K` configurations that
            differ in vector, layer and coefficient: `configurations_<K>`, `gated_<K>` (each with a gate on the layer below),
            `latched_<K>`, `replace_<K>`, `rotate_<K>`, `mlp_out_<K>` (needs that hook point).
        workload: Its requests.
        model: Shape and norms.
        bank: Digests of at least 256 directions.
    """
    return [_spec(variant, i, model, bank) for i in range(workload.n_requests)]


def _spec(variant: str, i: int, model: Model, bank: list[str]) -> RequestSpec | None:
    key = f"r{i}"
    name, _, count = variant.rpartition("_") if variant[-1].isdigit() else (variant, "", "")
    if variant == "idle":
        return None
    if name in TERM_VARIANTS:
        return RequestSpec(key=key, terms=[_term(name, i % int(count), model, bank)])
    if variant == "all_layers":
        terms = [
            TermSpec(
                layer=layer,
                direction=bank[(i + layer) % len(bank)],
                value=RELATIVE_DOSE / model.n_layers * model.norms[layer],
            )
            for layer in range(model.n_layers)
        ]
        return RequestSpec(key=key, terms=terms)
    if variant == "capture":
        return RequestSpec(key=key, capture=CaptureSpec(positions=["all[:]"]))
    if variant == "lens":
        layers = [model.n_layers // 3, 2 * model.n_layers // 3]
        return RequestSpec(key=key, lens=LensSpec(layers=layers, top_k=5))
    if name == "monitor":
        columns = [
            MonitorColumn(layer=(3 * j + 2) % model.n_layers, direction=bank[j], cosine=False)
            for j in range(int(count or N_MONITORED))
        ]
        return RequestSpec(key=key, monitor=MonitorSpec(columns=columns))
    raise ValueError(f"variant {variant!r} is not known")


def _term(name: str, c: int, model: Model, bank: list[str]) -> TermSpec:
    """The term of one configuration, distinct in vector, layer and coefficient."""
    layer = (7 * c) % model.n_layers
    if name in ("gated", "latched"):
        layer = max(layer, 1)
    value = RELATIVE_DOSE * model.norms[layer] * (1 + c / 256)
    plain = TermSpec(layer=layer, direction=bank[c], value=value)
    match name:
        case "gated" | "latched":
            gate = GateSpec(
                layer=layer - 1, direction=bank[-1 - c], above=ALWAYS, hold="token" if name == "gated" else "latch"
            )
            return plain.model_copy(update={"when": gate})
        case "replace":
            return plain.model_copy(update={"operation": "replace", "value": model.norms[layer]})
        case "rotate":
            return plain.model_copy(update={"operation": "rotate", "value": 5.0 + c / 256})
        case "mlp_out":
            return plain.model_copy(update={"at": "mlp_out"})
    return plain


def sweep_configurations(model: Model) -> list[tuple[int, np.ndarray]]:
    """Layer and what is added there, `(d_model,)` float32, of each configuration."""
    made = [np.frombuffer(direction, dtype=np.float32) for direction in directions(model, N_CONFIGURATIONS)]
    layers = [(4 + 3 * c) % model.n_layers for c in range(N_CONFIGURATIONS)]
    return [(layer, RELATIVE_DOSE * model.norms[layer] * made[c]) for c, layer in enumerate(layers)]


def sweep_prompts(tokenizer: Any) -> list[list[int]]:
    """Evaluation questions of a trait, rendered as chats."""
    questions = json.loads(QUESTIONS.read_text())["questions"][:N_PROMPTS]
    ids: list[list[int]] = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in questions
    ]
    return ids
