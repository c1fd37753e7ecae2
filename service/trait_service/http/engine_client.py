"""The seam between vLLM's HTTP handlers and its engine: every request of the service passes `generate` here.

vLLM's serving objects hold this client in place of theirs. It looks at the rendered prompt, salts the prefix cache,
holds the request's directions in the vector bank while it runs, and fetches the worker's report before the last
output is handed on: a request that failed in the worker has no answer.
"""

import hashlib
import hmac
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from trait_client.errors import SteeringFailedError
from trait_client.schema import SteeredPositions, SteeringReport
from vllm.exceptions import VLLMValidationError
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams

from trait_service.engine.spec import EXTRA_ARGS_KEY, CaptureSpec, RequestSpec
from trait_service.http.bank_lease import BankLease
from trait_service.http.collector import Collector
from trait_service.http.errors import PromptRefusedError
from trait_service.http.resolve import ResolvedSteering
from trait_service.http.workers import Collected

STEERABLE_PROMPTS = ("token", "multimodal")


@dataclass
class Run:
    """One HTTP request's work in the engine: what it asks for, and what the workers report.

    Args:
        steering: None reads or generates unsteered.
        capture: Pools to keep; None keeps none.
        collected: One entry for each finished prompt of the request.
    """

    steering: ResolvedSteering | None = None
    capture: CaptureSpec | None = None
    collected: list[Collected] = field(default_factory=list)
    started: int = 0

    def new_spec(self) -> RequestSpec:
        """What travels to the worker for one more prompt of the request, under a key of its own."""
        self.started += 1
        terms = list(self.steering.terms) if self.steering else []
        return RequestSpec(key=secrets.token_hex(16), terms=terms, capture=self.capture)

    def report(self) -> SteeringReport:
        """The `steering` block of the response, summed over the request's prompts.

        Raises:
            SteeringFailedError: A prompt has no report.
        """
        if self.steering is None or not self.collected or len(self.collected) != self.started:
            raise SteeringFailedError(f"{len(self.collected)} of {self.started} prompts were reported as steered")
        return report_of(self.steering, self.collected)


def report_of(steering: ResolvedSteering, collected: list[Collected]) -> SteeringReport:
    """What was applied, and to how many positions of all prompts together."""
    reports = [item.report for item in collected]
    return SteeringReport(
        applied=list(steering.applied),
        positions=SteeredPositions(
            prompt=sum(report.steered_prompt for report in reports),
            generated=sum(report.steered_generated for report in reports),
            cached=sum(report.steered_cached for report in reports),
        ),
    )


_current: ContextVar[Run | None] = ContextVar("trait_run", default=None)


@contextmanager
def steered(run: Run | None) -> Iterator[None]:
    """Steer what vLLM's handlers generate inside the block."""
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


class SteeredEngineClient:
    """vLLM's engine client, but for `generate`.

    Args:
        engine: vLLM's `AsyncLLM`.
        lease: Rows of the vector bank.
        collector: Reports and captures.
        bos_token_id: The tokenizer's; None where it has none.
    """

    def __init__(self, engine: Any, lease: BankLease, collector: Collector, bos_token_id: int | None) -> None:
        self._engine = engine
        self._lease = lease
        self._collector = collector
        self._bos = bos_token_id
        # Unknown to clients: no salt of theirs can ever meet one of ours.
        self._secret = secrets.token_bytes(32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Generate, steered by the run that the calling route has opened (`steered`), if any.

        Refusals are raised here, before a stream has begun.

        Raises:
            PromptRefusedError: The prompt begins with two BOS tokens.
            VLLMValidationError: The request brings a spec of its own, or a prompt that cannot be steered.
        """
        return self.run(_current.get(), prompt, sampling_params, request_id, **options)

    def run(
        self, run: Run | None, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As `generate`, for the run given."""
        self._check(prompt, sampling_params)
        if run is None or (run.steering is None and run.capture is None):
            return self._engine.generate(prompt, sampling_params, request_id, **options)
        if not isinstance(prompt, dict) or prompt.get("type") not in STEERABLE_PROMPTS:
            raise VLLMValidationError("only prompts of tokens can be steered or captured, not embeddings")
        if run.capture is not None and sampling_params.n != 1:
            raise VLLMValidationError(f"a capture goes with n = 1, not {sampling_params.n}", parameter="n")
        n_prompt = len(prompt["prompt_token_ids"])
        spec = run.new_spec()
        params = _with_spec(sampling_params, spec, n_prompt)
        if run.steering is not None:
            prompt = {**prompt, "cache_salt": self._salt(run.steering, n_prompt, prompt.get("cache_salt"))}
        return self._generate(run, spec, prompt, params, request_id, options)

    async def _generate(
        self, run: Run, spec: RequestSpec, prompt: Any, params: SamplingParams, request_id: str, options: dict[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        directions = run.steering.directions if run.steering else {}
        async with self._lease.acquire(directions):
            collected = False
            try:
                outputs: AsyncGenerator[RequestOutput, None] = self._engine.generate(
                    prompt, params, request_id, **options
                )
                async with aclosing(outputs):
                    async for output in outputs:
                        if output.finished:
                            run.collected.append(await self._collector.collect(spec.key))
                            collected = True
                        yield output
            finally:
                if not collected:
                    self._collector.discard(spec.key)

    def check_prompt(self, ids: list[int] | None) -> None:
        """Refuse a prompt whose activations would mislead.

        Raises:
            PromptRefusedError: It begins with two BOS tokens.
        """
        if self._bos is not None and ids and len(ids) > 1 and ids[0] == ids[1] == self._bos:
            raise PromptRefusedError(
                f"the prompt begins with two BOS tokens (id {self._bos}): the chat template and the tokenizer each add "
                "one, which shifts every activation. Send messages or plain text, or leave one out",
                param="messages",
            )

    def _check(self, prompt: Any, params: SamplingParams) -> None:
        if EXTRA_ARGS_KEY in (params.extra_args or {}):
            raise VLLMValidationError(
                f"vllm_xargs.{EXTRA_ARGS_KEY} is reserved: use the field 'steering'", parameter="vllm_xargs"
            )
        self.check_prompt(prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None)

    def _salt(self, steering: ResolvedSteering, n_prompt: int, users: str | None) -> str:
        """Key-value blocks are shared by requests of equal salt: equal steering, and equal salt of the user's own."""
        state = hmac.new(self._secret, steering.digest, hashlib.sha256)
        if not steering.uniform:
            # The steered positions depend on the prompt's length and on where generation began: nothing is shared.
            state.update(n_prompt.to_bytes(8, "little") + secrets.token_bytes(16))
        state.update(b"" if users is None else b"salt" + users.encode("utf-8", "backslashreplace"))
        return f"trait:{state.hexdigest()}"


def _with_spec(params: SamplingParams, spec: RequestSpec, n_prompt: int) -> SamplingParams:
    params = params.clone()
    params.extra_args = {**(params.extra_args or {}), **spec.to_extra_args()}
    if spec.capture is not None and reads_prompt(spec.capture, n_prompt):
        # Positions that come from the prefix cache never pass the layers, so that nothing could be captured there.
        params.skip_reading_prefix_cache = True
    return params


def reads_prompt(capture: CaptureSpec, n_prompt: int) -> bool:
    """Whether a pool holds a position of the engine's prompt."""
    return any(start < min(stop, n_prompt) for start, stop in capture.intervals(n_prompt))


async def last_output(outputs: AsyncIterator[RequestOutput]) -> RequestOutput:
    """The finished output of a request.

    Raises:
        SteeringFailedError: The engine ended without one.
    """
    final = None
    async for output in outputs:
        final = output
    if final is None or not final.finished:
        raise SteeringFailedError("the engine ended without an output")
    return final
