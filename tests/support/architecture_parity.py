"""Parity of one architecture: a tiny random model in vLLM, steered, against transformers with a hook on the same block.

One engine runs two batches. The first steers at the first, a middle and the last layer, by `add` and by `ablate`, beside an
unsteered neighbour and a request that captures every layer; the second is the neighbour alone. Where the model has further
hook points the engine has them too, and the first batch steers, captures and monitors there. The reference is not led
by tokens of its own: it reads the engine's, so that a tie between two tokens fails no test.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tiny_models
import torch
from engine_harness import (
    Direction,
    EngineResult,
    Job,
    Reference,
    Req,
    assert_guesses_equal,
    assert_lens_equals,
    direction,
)
from trait_core.schema import RESID_POST, HookPoint
from trait_service.engine.head_shape import HeadShape
from trait_service.engine.spec import CaptureSpec, LensSpec, MonitorColumn, MonitorSpec, RequestSpec, TermSpec
from trait_service.models.architectures import ARCHITECTURES

N_TOKENS = 4
STEERED, NEIGHBOUR = [5, 906, 7, 3008, 911, 10, 1213, 14, 15], [6000, 21, 2222, 23, 2424]
CAPTURED = ["prompt[:]", "prompt[-1]", "response[:]"]
TOLERANCE = 1e-3
"""Largest difference of a log-probability; of a captured stream, relative to its norm."""
EFFECT = 0.05
"""Least change of a log-probability by steering: a case that changes nothing would prove nothing."""
READ = {*tiny_models.DENSE, "GlmForCausalLM", "GPTBigCodeForCausalLM", "GPTNeoXForCausalLM", "HeliumForCausalLM"}
"""Architectures whose directions are also read as tokens: every kind of norm and head, vLLM's own and transformers'."""
HEADS = {"Gemma3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM", "OlmoForCausalLM"}
"""Architectures whose attention heads are also captured, grouped-query attention and wide heads among them."""
USUAL_BRANCHES = {"attn_out": "self_attn", "mlp_out": "mlp"}
_GPT = {"attn_out": "attn", "mlp_out": "mlp"}
_NORMED = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
BRANCHES = {
    "AfmoeForCausalLM": {"attn_out": "post_attention_layernorm", "mlp_out": "post_mlp_layernorm"},
    "BloomForCausalLM": {"attn_out": "self_attention.dense", "mlp_out": "mlp.dense_4h_to_h"},  # both add it themselves
    "Exaone4ForCausalLM": _NORMED,
    "FalconForCausalLM": {"attn_out": "self_attention", "mlp_out": "mlp"},
    "FalconH1ForCausalLM": {"mlp_out": "feed_forward"},
    "FlexOlmoForCausalLM": _NORMED,
    "GPT2LMHeadModel": _GPT,
    "GPTBigCodeForCausalLM": _GPT,
    "GPTJForCausalLM": _GPT,
    "GPTNeoXForCausalLM": {"attn_out": "attention", "mlp_out": "mlp"},
    "Gemma2ForCausalLM": _NORMED,
    "Gemma3ForCausalLM": _NORMED,
    "Glm4ForCausalLM": {"attn_out": "post_self_attn_layernorm", "mlp_out": "post_mlp_layernorm"},
    "HyperCLOVAXForCausalLM": {"attn_out": "post_norm1", "mlp_out": "post_norm2"},
    "Llama4ForCausalLM": {"attn_out": "self_attn", "mlp_out": "feed_forward"},
    "Mamba2ForCausalLM": {"attn_out": "mixer"},
    "Olmo2ForCausalLM": _NORMED,
    "Olmo3ForCausalLM": _NORMED,
}
"""The modules of transformers whose outputs are added to the stream, where they are not the usual ones."""
ENGINE_OPTIONS = {
    "enable_prefix_caching": None,  # vLLM decides by the model, as it does in the service
    "max_model_len": 256,
    "max_num_seqs": 8,
    "num_gpu_blocks_override": 64,
    "skip_tokenizer_init": True,
}


def check(architecture: str, tokenizer_from: Path, folder: Path, run_engine: Callable[[Job], EngineResult]) -> None:
    """Make a model, run it, and compare it and the classes of its layers with what is known."""
    path = tiny_models.make(architecture, folder / "model", tokenizer_from)
    known = ARCHITECTURES[architecture]
    branches = {at: BRANCHES.get(architecture, USUAL_BRANCHES)[at] for at in known.hook_points}
    parity = Parity(Reference(str(path)), branches, reads=architecture in READ, has_heads=architecture in HEADS)
    result = run_engine(parity.job(str(path), **tiny_models.MODELS[architecture].engine))
    assert tuple(result.layers) == known.layers
    assert tuple(result.hook_points) == known.hook_points
    parity.check(result)
    if parity.read_directions:
        assert_lens_equals(result, parity.reference, parity.read_directions)
    shutil.rmtree(path)


@dataclass(frozen=True)
class Case:
    """One operation at a hook point of one layer; `path`: its module in transformers' block."""

    operation: str
    layer: int
    value: float
    direction: Direction
    at: HookPoint = RESID_POST
    path: str = ""

    @property
    def key(self) -> str:
        return f"{self.operation} at {self.at} of layer {self.layer}"

    @property
    def spec(self) -> str:
        what = {"direction": self.direction.sha256, "operation": self.operation, "value": self.value}
        return RequestSpec(key=self.key, terms=[TermSpec(layer=self.layer, at=self.at, **what)]).model_dump_json()

    def change(self, stream: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        d = torch.from_numpy(self.direction.array)
        if self.operation == "add":
            return stream + self.value * d
        return stream - (stream @ d)[:, None] * d


class Parity:
    """An architecture's cases, and what an engine made of them."""

    def __init__(
        self, reference: Reference, branches: dict[HookPoint, str], *, reads: bool = False, has_heads: bool = False
    ) -> None:
        self.reference, self.branches, self.reads, self.has_heads = reference, branches, reads, has_heads
        self.layers = [0, reference.n_layers // 2, reference.n_layers - 1]

    @cached_property
    def cases(self) -> list[Case]:
        """Both operations at each of the three layers, one at each further hook point; what is ablated lies along the stream."""
        streams = self.reference.streams(STEERED)
        random = direction(self.reference.d_model, seed=7)
        cases = []
        for layer in self.layers:
            mean = streams[layer].mean(0).numpy()
            along = Direction(mean / np.linalg.norm(mean))
            cases.append(Case("add", layer, float(streams[layer].norm(dim=-1).mean()), random))
            cases.append(Case("ablate", layer, 0.0, along))
        middle = self.layers[1]
        value = float(streams[middle].norm(dim=-1).mean())
        return cases + [Case("add", middle, value, random, at, path) for at, path in self.branches.items()]

    @cached_property
    def reading(self) -> dict[HookPoint, Req]:
        """A request that captures every layer at each hook point, and monitors the middle one."""
        made = {}
        for at in (RESID_POST, *self.branches):
            column = MonitorColumn(layer=self.layers[1], direction=self.cases[0].direction.sha256, at=at)
            capture = CaptureSpec(positions=CAPTURED, at=at)
            spec = RequestSpec(key=at, capture=capture, monitor=MonitorSpec(columns=[column]))
            made[at] = Req(NEIGHBOUR, spec.model_dump_json(), N_TOKENS)
        return made

    @property
    def guessing(self) -> Req:
        """A request whose lens reads the first, a middle and the last layer."""
        spec = RequestSpec(key="lens", lens=LensSpec(layers=self.layers, top_k=5))
        return Req(NEIGHBOUR, spec.model_dump_json(), N_TOKENS)

    def of_heads(self, head: int | None) -> Req:
        """A request that captures the heads of every layer, or one of them."""
        spec = RequestSpec(key=f"head {head}", capture=CaptureSpec(positions=CAPTURED, at="head_out", head=head))
        return Req(NEIGHBOUR, spec.model_dump_json(), N_TOKENS)

    def job(self, path: str, **options) -> Job:
        steered = [Req(STEERED, case.spec, N_TOKENS) for case in self.cases]
        neighbour = Req(NEIGHBOUR, max_tokens=N_TOKENS)
        directions = list({case.direction.sha256: case.direction for case in self.cases}.values())
        batches = [[*steered, neighbour, *self.reading.values()], [self.guessing if self.reads else neighbour]]
        if self.has_heads:
            batches.append([self.of_heads(None), self.of_heads(1)])
        settings = {"hook_points": [*self.branches, *["head_out"] * self.has_heads]}
        options = {**ENGINE_OPTIONS, **options}
        return Job(path, batches, directions, options=options, settings=settings, lens=self.read_directions)

    @property
    def read_directions(self) -> list[Direction]:
        """A random direction, and one of another length, that are read as tokens."""
        return self.reads * [
            direction(self.reference.d_model, seed=3),
            Direction(17 * direction(self.reference.d_model, seed=4).array),
        ]

    def check(self, result: EngineResult) -> None:
        """Compare everything with the reference."""
        n_cases = len(self.cases)
        steered, (neighbour, *readings) = result.batches[0][:n_cases], result.batches[0][n_cases:]
        (alone,) = result.batches[1]
        expected = self.reference.next_logprobs(NEIGHBOUR, alone["token_ids"])
        read = {f"captured at {at}": output for at, output in zip(self.reading, readings, strict=True)}
        for name, output in {"alone": alone, "beside steered ones": neighbour, **read}.items():
            assert output["token_ids"] == alone["token_ids"], name
            assert_follows(output, expected, f"an unsteered request, {name}")
        unsteered = self.reference.next_logprobs(STEERED, [])
        for case, output in zip(self.cases, steered, strict=True):
            expected = self.reference.next_logprobs(
                STEERED, output["token_ids"], {(case.layer, case.path): case.change}
            )
            assert_follows(output, expected, case.key)
            effect = float((expected[0] - unsteered[0]).abs().max())
            assert effect > EFFECT, f"{case.key} changes no log-probability by more than {effect}"
        seen = [*NEIGHBOUR, *alone["token_ids"][:-1]]
        if self.reads:
            expected = self.reference.guesses(seen, self.layers)[len(NEIGHBOUR) - 1 :]
            assert_guesses_equal(result.captures(1)["lens/lens/0"], expected)
        if self.has_heads:
            self.check_heads(result, seen)
        captures = result.captures(0)
        streams = {at: self.reference.streams(seen, self.branches.get(at, "")).numpy() for at in self.reading}
        for at, expected in streams.items():
            _check_capture(at, captures[f"{at}/mean"], expected)
            middle = expected[self.layers[1]]
            along, length = middle @ self.cases[0].direction.array, np.linalg.norm(middle, axis=-1)
            error = (np.abs(captures[f"{at}/projections/0"][:, 0] - along) / length).max()
            assert error < TOLERANCE, f"projections at {at}: off by {error}"
        if self.branches.keys() >= USUAL_BRANCHES.keys():
            added = streams["attn_out"] + streams["mlp_out"]
            error = np.abs(streams[RESID_POST][1:] - streams[RESID_POST][:-1] - added[1:]).max()
            assert error < TOLERANCE, f"what the branches add is not what the blocks add: off by {error}"

    def check_heads(self, result: EngineResult, seen: list[int]) -> None:
        """Compare the heads with what transformers' output projections get."""
        captures, shape = result.captures(2), HeadShape(**result.info["heads"])
        expected = self.reference.heads(seen).numpy()
        assert shape.width(None) == expected.shape[-1]
        for head in (None, 1):
            at = slice(None) if head is None else slice(shape.head_dim, 2 * shape.head_dim)
            _check_capture("head_out", shape.take(captures[f"head {head}/mean"], head), expected[..., at])


def _check_capture(at: str, means: np.ndarray, streams: np.ndarray) -> None:
    """The means of the pools of `CAPTURED` equal those of `(n_layers, n_tokens, d_model)`."""
    n = len(NEIGHBOUR)
    for name, got, where in zip(CAPTURED, means, (slice(0, n), slice(n - 1, n), slice(n, None)), strict=True):
        expected = streams[:, where].mean(1)
        error = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        tolerance = TOLERANCE if at == RESID_POST else 2 * TOLERANCE  # a branch is smaller than what it is made of
        assert error.max() < tolerance, f"capture of {name} at {at}: layer {error.argmax()} is off by {error.max()}"


def assert_follows(output: dict, expected: torch.Tensor, name: str) -> None:
    """The engine's tokens are the likeliest of `expected` `(n_tokens + 1, vocabulary)`, and its log-probabilities equal it."""
    for step, (token, logprobs) in enumerate(zip(output["token_ids"], output["logprobs"], strict=True)):
        error = max(abs(value - float(expected[step, int(other)])) for other, value in logprobs.items())
        assert error < TOLERANCE, f"{name}, token {step}: off by {error}"
        assert float(expected[step].max() - expected[step, token]) < TOLERANCE, (
            f"{name}, token {step}: not the likeliest"
        )
