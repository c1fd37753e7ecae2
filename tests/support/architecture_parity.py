"""Parity of one architecture: a tiny random model in vLLM, steered, against transformers with a hook on the same block.

One engine runs two batches. The first steers at the first, a middle and the last layer, by `add` and by `ablate`, beside an
unsteered neighbour and a request that captures every layer; the second is the neighbour alone. The reference is not led
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
from engine_harness import Direction, EngineResult, Job, Reference, Req, assert_lens_equals, direction
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec
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
    parity = Parity(Reference(str(path)), reads=architecture in READ)
    result = run_engine(parity.job(str(path), **tiny_models.MODELS[architecture].engine))
    assert tuple(result.layers) == ARCHITECTURES[architecture].layers
    parity.check(result)
    if parity.read_directions:
        assert_lens_equals(result, parity.reference, parity.read_directions)
    shutil.rmtree(path)


@dataclass(frozen=True)
class Case:
    """One operation at the output of one layer."""

    operation: str
    layer: int
    value: float
    direction: Direction

    @property
    def key(self) -> str:
        return f"{self.operation} at layer {self.layer}"

    @property
    def spec(self) -> str:
        term = TermSpec(layer=self.layer, direction=self.direction.sha256, operation=self.operation, value=self.value)
        return RequestSpec(key=self.key, terms=[term]).model_dump_json()

    def change(self, stream: torch.Tensor, _positions: torch.Tensor) -> torch.Tensor:
        d = torch.from_numpy(self.direction.array)
        if self.operation == "add":
            return stream + self.value * d
        return stream - (stream @ d)[:, None] * d


class Parity:
    """An architecture's cases, and what an engine made of them."""

    def __init__(self, reference: Reference, *, reads: bool = False) -> None:
        self.reference, self.reads = reference, reads
        self.layers = [0, reference.n_layers // 2, reference.n_layers - 1]

    @cached_property
    def cases(self) -> list[Case]:
        """Both operations at each of the three layers; what is ablated lies along the stream."""
        streams = self.reference.streams(STEERED)
        random = direction(self.reference.d_model, seed=7)
        cases = []
        for layer in self.layers:
            mean = streams[layer].mean(0).numpy()
            along = Direction(mean / np.linalg.norm(mean))
            cases.append(Case("add", layer, float(streams[layer].norm(dim=-1).mean()), random))
            cases.append(Case("ablate", layer, 0.0, along))
        return cases

    def job(self, path: str, **options) -> Job:
        capture = RequestSpec(key="capture", capture=CaptureSpec(positions=CAPTURED)).model_dump_json()
        steered = [Req(STEERED, case.spec, N_TOKENS) for case in self.cases]
        neighbour = Req(NEIGHBOUR, max_tokens=N_TOKENS)
        directions = list({case.direction.sha256: case.direction for case in self.cases}.values())
        batches = [[*steered, neighbour, Req(NEIGHBOUR, capture, N_TOKENS)], [neighbour]]
        return Job(path, batches, directions, options={**ENGINE_OPTIONS, **options}, lens=self.read_directions)

    @property
    def read_directions(self) -> list[Direction]:
        """A random direction, and one of another length, that are read as tokens."""
        return self.reads * [
            direction(self.reference.d_model, seed=3),
            Direction(17 * direction(self.reference.d_model, seed=4).array),
        ]

    def check(self, result: EngineResult) -> None:
        """Compare everything with the reference."""
        *steered, neighbour, captured = result.batches[0]
        (alone,) = result.batches[1]
        expected = self.reference.next_logprobs(NEIGHBOUR, alone["token_ids"])
        for name, output in {"alone": alone, "beside steered ones": neighbour, "captured": captured}.items():
            assert output["token_ids"] == alone["token_ids"], name
            assert_follows(output, expected, f"an unsteered request, {name}")
        unsteered = self.reference.next_logprobs(STEERED, [])
        for case, output in zip(self.cases, steered, strict=True):
            expected = self.reference.next_logprobs(STEERED, output["token_ids"], {case.layer: case.change})
            assert_follows(output, expected, case.key)
            effect = float((expected[0] - unsteered[0]).abs().max())
            assert effect > EFFECT, f"{case.key} changes no log-probability by more than {effect}"
        self._check_capture(result.captures(0)["capture/mean"], captured["token_ids"])

    def _check_capture(self, means: np.ndarray, generated: list[int]) -> None:
        n = len(NEIGHBOUR)
        streams = self.reference.streams([*NEIGHBOUR, *generated[:-1]]).numpy()
        for name, got, at in zip(CAPTURED, means, (slice(0, n), slice(n - 1, n), slice(n, None)), strict=True):
            expected = streams[:, at].mean(1)
            error = np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
            assert error.max() < TOLERANCE, f"capture of {name}: layer {error.argmax()} is off by {error.max()}"


def assert_follows(output: dict, expected: torch.Tensor, name: str) -> None:
    """The engine's tokens are the likeliest of `expected` `(n_tokens + 1, vocabulary)`, and its log-probabilities equal it."""
    for step, (token, logprobs) in enumerate(zip(output["token_ids"], output["logprobs"], strict=True)):
        error = max(abs(value - float(expected[step, int(other)])) for other, value in logprobs.items())
        assert error < TOLERANCE, f"{name}, token {step}: off by {error}"
        assert float(expected[step].max() - expected[step, token]) < TOLERANCE, (
            f"{name}, token {step}: not the likeliest"
        )
