"""The engine under test: vLLM in this process, with the arguments that `trait-service serve` gives it."""

import asyncio
import hashlib
import platform
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from trait_core.errors import SteeringFailedError
from trait_core.schema import HookPoint

from trait_service.engine.settings import EngineSettings, engine_args
from trait_service.engine.spec import CaptureSpec, MonitorSpec, RequestReport, RequestSpec, TermSpec
from trait_service.engine_link.workers import Capture, Workers
from trait_service.models.architectures import ARCHITECTURES

MAX_MODEL_LEN = 512
"""Longest sequence that is run, unless the model's own is shorter."""
MAX_NUM_SEQS = 64
TOP_LOGPROBS = 10


@dataclass(frozen=True)
class Direction:
    """A unit direction, `(d_model,)` float32, and its name in the vector bank."""

    array: np.ndarray

    @property
    def sha256(self) -> str:
        """sha256 of its bytes, hex."""
        return hashlib.sha256(self.array.tobytes()).hexdigest()


@dataclass(frozen=True)
class Ask:
    """One greedy request.

    Args:
        salt: Separates its prefix-cache blocks from those of other salts; None shares.
    """

    token_ids: list[int]
    terms: list[TermSpec] = field(default_factory=list)
    capture: CaptureSpec | None = None
    monitor: MonitorSpec | None = None
    max_tokens: int = 8
    reads_cache: bool = False
    salt: str | None = None


@dataclass(frozen=True)
class Answer:
    """Answer to one request.

    Args:
        token_ids: Generated tokens.
        logprobs: For each generated token, the log-probabilities of the likeliest tokens.
        cached: Prompt tokens read from the prefix cache.
        report: The worker's report; None for a request that asked for nothing.
        capture: Pooled activations; None if not requested.
        projections: `(n_positions, n_columns)` float32; None if not requested.
    """

    token_ids: list[int]
    logprobs: list[dict[int, float]]
    cached: int
    report: RequestReport | None = None
    capture: Capture | None = None
    projections: np.ndarray | None = None


class Engine(Protocol):
    """The engine interface that the checks use."""

    n_layers: int
    hook_points: list[HookPoint]
    d_model: int
    n_vocabulary: int
    max_model_len: int
    block_size: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def upload(self, directions: Sequence[Direction]) -> None:
        """Put directions into the vector bank."""

    def run(self, asks: Sequence[Ask]) -> list[Answer]:
        """Run all requests in one batch.

        Raises:
            SteeringFailedError: One could not be steered as asked.
        """


class ProbeEngine:
    """vLLM's offline engine in this process, for checks below the HTTP service.

    `trait_steering.LocalEngine` is the public engine in a process.

    Args:
        model: Hugging Face id or folder.
        dtype: As vLLM takes it.
        settings: Settings of the engine's side; without hook points it gets those that are known for the model's architecture.
        cuda: True if vLLM runs on CUDA.
        eager: Run without torch.compile.
    """

    def __init__(self, model: str, dtype: str, settings: EngineSettings, *, cuda: bool, eager: bool) -> None:
        from vllm import LLM, EngineArgs  # noqa: PLC0415 - reads the environment

        known = EngineArgs(model=model, dtype=cast("Any", dtype)).create_model_config()
        if not settings.hook_points:
            settings = settings.model_copy(update={"hook_points": _known_hook_points(known)})
        self._llm = LLM(
            model=model,
            dtype=cast("Any", dtype),
            enforce_eager=eager,
            max_model_len=min(known.max_model_len, MAX_MODEL_LEN),
            max_num_seqs=MAX_NUM_SEQS,
            max_logprobs=TOP_LOGPROBS,
            use_tqdm_on_load=False,
            seed=0,
            **engine_args(settings, cuda=cuda),
        )
        self._workers = Workers(_Rpc(self._llm))
        config = self._llm.llm_engine.vllm_config
        self.info = asyncio.run(self._workers.info())
        self.n_layers: int = self.info["n_layers"]
        self.hook_points: list[HookPoint] = self.info["hook_points"]
        self.d_model: int = self.info["d_model"]
        self.dtype: str = self.info["dtype"]
        self.architecture: str = config.model_config.architecture
        self.device_name: str = torch.cuda.get_device_name() if cuda else platform.machine()
        self.asynchronous = bool(config.scheduler_config.async_scheduling)
        self.n_vocabulary: int = config.model_config.get_vocab_size()
        self.max_model_len: int = config.model_config.max_model_len
        caching = config.cache_config.enable_prefix_caching
        self.block_size: int | None = config.cache_config.block_size if caching else None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens that the tokenizer adds."""
        return list(self._llm.get_tokenizer().encode(text))

    def upload(self, directions: Sequence[Direction]) -> None:
        """Put directions into the vector bank."""
        put = {direction.sha256: direction.array.tobytes() for direction in directions}
        asyncio.run(self._workers.update_bank(put, []))

    def run(self, asks: Sequence[Ask]) -> list[Answer]:
        """Run all requests in one batch."""
        from vllm import SamplingParams  # noqa: PLC0415

        keys = [secrets.token_hex(8) if ask.terms or ask.capture or ask.monitor else None for ask in asks]
        prompts, params = [], []
        for ask, key in zip(asks, keys, strict=True):
            asked = {"terms": ask.terms, "capture": ask.capture, "monitor": ask.monitor}
            spec = None if key is None else RequestSpec.model_validate({"key": key, **asked})
            salt = {} if ask.salt is None else {"cache_salt": ask.salt}
            prompts.append({"prompt_token_ids": ask.token_ids, **salt})
            params.append(
                SamplingParams(
                    temperature=0,
                    max_tokens=ask.max_tokens,
                    ignore_eos=True,
                    logprobs=TOP_LOGPROBS,
                    extra_args=None if spec is None else spec.to_extra_args(),
                    skip_reading_prefix_cache=not ask.reads_cache,
                )
            )
        outputs = self._llm.generate(prompts, params, use_tqdm=False)  # type: ignore[arg-type]
        wanted = {
            key: [len(completion.token_ids) for completion in output.outputs]
            for key, output in zip(keys, outputs, strict=True)
            if key is not None
        }
        collected = asyncio.run(self._workers.collect(wanted)) if wanted else {}
        answers = []
        for output, key in zip(outputs, keys, strict=True):
            found = None if key is None else collected.get(key)
            if key is not None and (found is None or found.report.error):
                raise SteeringFailedError(found.report.error or "" if found else "the worker reported nothing")
            completion = output.outputs[0]
            answers.append(
                Answer(
                    token_ids=list(completion.token_ids),
                    logprobs=[
                        {token: entry.logprob for token, entry in step.items()} for step in completion.logprobs or []
                    ],
                    cached=output.num_cached_tokens or 0,
                    report=found.report if found else None,
                    capture=found.capture if found else None,
                    projections=found.rows.projections.get(0) if found else None,
                )
            )
        return answers


class _Rpc:
    """Adapter that gives `LLM` the interface `Workers` expects."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    async def collective_rpc(self, name: str, args: tuple[Any, ...] = ()) -> Any:
        return self._llm.collective_rpc(name, args=args)


def _known_hook_points(config: Any) -> list[str]:
    """Hook points beside the stream that are known for a model's architecture; none for an unknown one."""
    names = [*(config.hf_config.architectures or []), config.architecture]
    known = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    return list(known.hook_points) if known is not None else []
