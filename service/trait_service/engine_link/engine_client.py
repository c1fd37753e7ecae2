"""The seam between vLLM's HTTP handlers and its engine: every request of the service passes `generate` here.

vLLM's serving objects hold this client in place of theirs. It looks at the rendered prompt, holds the request's
directions in the vector bank while it runs, and fetches the worker's report before the last output is handed on: a
request that failed in the worker has no answer. The prefix cache is the scheduler's concern.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any

from trait_core.errors import InvalidRequestError, SteeringFailedError
from vllm.exceptions import VLLMValidationError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from trait_service.access.admission import claim_completions
from trait_service.engine.spec import EXTRA_ARGS_KEY, CaptureSpec, RequestSpec, reserved_key_message
from trait_service.engine_link.bank_client import BankClient
from trait_service.engine_link.lens_room import LensRoom
from trait_service.engine_link.result_fetcher import NoReportError, ResultFetcher
from trait_service.engine_link.run import Run
from trait_service.engine_link.spans import SteeringSpan
from trait_service.engine_link.workers import Collected
from trait_service.errors import AbortedError, PromptRefusedError
from trait_service.metrics import count_positions, count_run
from trait_service.registry.uses import VectorUses
from trait_service.resolving.monitoring import Decode, MonitoredPrompt, ResolvedMonitor
from trait_service.resolving.placing import Placed, Placer
from trait_service.resolving.scopes import check_scopes

STEERABLE_PROMPTS = ("token", "multimodal")


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
        bank: Rows of the vector bank.
        fetcher: Reports and captures.
        uses: Vector files that running requests use.
        bos_token_id: The tokenizer's BOS token; None if it has none.
        decode: Text of token ids, special ones included.
        lens: Room and texts for requests with a lens.
        terms_per_layer: Terms of one request on one layer.
        placer: Places the scopes of terms in a prompt.
    """

    def __init__(
        self,
        engine: Any,
        bank: BankClient,
        fetcher: ResultFetcher,
        uses: VectorUses,
        bos_token_id: int | None,
        decode: Decode,
        lens: LensRoom,
        terms_per_layer: int,
        placer: Placer,
    ) -> None:
        self.placer = placer
        self._terms_per_layer = terms_per_layer
        self._engine = engine
        self._bank = bank
        self._fetcher = fetcher
        self._uses = uses
        self._bos = bos_token_id
        self._decode = decode
        self._lens = lens

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The engine's: operators' routes of vLLM's (aborting, for one) ask whether this is an `AsyncLLM`."""
        return type(self._engine)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Generate, steered by the run that the calling route has opened (`steered`), if any.

        Refusals are raised here, before a stream has begun.

        Raises:
            PromptRefusedError: The prompt begins with two BOS tokens.
            VLLMValidationError: The request contains a spec, asks for too many completions, or has a prompt
                that cannot be steered.
        """
        return self.run(_current.get(), prompt, sampling_params, request_id, **options)

    def run(
        self, run: Run | None, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As `generate`, for the run given."""
        self._check(prompt, sampling_params)
        if run is None or (run.steering is None and run.capture is None and run.monitor is None):
            count_run(None, monitored=False, captured=False)
            return self._engine.generate(prompt, sampling_params, request_id, **options)
        if not isinstance(prompt, dict) or prompt.get("type") not in STEERABLE_PROMPTS:
            raise VLLMValidationError("only prompts of tokens can be steered or captured, not embeddings")
        if run.capture is not None and sampling_params.n != 1:
            raise VLLMValidationError(f"a capture needs n = 1, not {sampling_params.n}", parameter="n")
        ids = prompt["prompt_token_ids"]
        n_prompt = len(ids)
        try:
            turns = [] if run.turns is None else run.turns.spans(ids)
            terms = self.placer.place(run.steered_terms, ids, turns)
            check_scopes(terms, n_prompt, self._terms_per_layer)
            watched = self._watched(run.monitor, ids, turns)
            if run.monitor is not None and run.monitor.lens is not None:
                self._lens.limits.check(run.monitor.lens.layers, sampling_params.n or 1)
        except InvalidRequestError as error:
            raise VLLMValidationError(str(error), parameter=error.param) from error
        count_run(run.steering, monitored=run.monitor is not None, captured=run.capture is not None)
        spec = run.new_spec(sampling_params.n or 1, ids, self._decode, self._lens.token_text, terms, watched)
        params = _with_spec(sampling_params, spec, n_prompt)
        outputs = self._generate(run, spec, prompt, params, request_id, options)
        if run.monitor is None:
            return outputs
        return self._monitored(run.monitored[-1], outputs, in_pieces=params.output_kind != RequestOutputKind.FINAL_ONLY)

    def _watched(
        self, monitor: ResolvedMonitor | None, ids: list[int], turns: Sequence[tuple[int, int]]
    ) -> Placed | None:
        """The positions that are monitored, in one prompt; None if they do not depend on tokens."""
        positions = None if monitor is None else monitor.positions
        if positions is None or not positions.needs_tokens:
            return None
        return self.placer.placed([positions], ids, turns, "monitor.positions")[0]

    async def _monitored(
        self, prompt: MonitoredPrompt, outputs: AsyncGenerator[RequestOutput, None], *, in_pieces: bool
    ) -> AsyncGenerator[RequestOutput, None]:
        """Pass outputs on once their projections have arrived."""
        async with aclosing(outputs):
            async for output in outputs:
                for completion in output.outputs:
                    prompt.note_tokens(completion.index, completion.token_ids)
                if in_pieces and not output.finished:
                    after = prompt.received
                    found = await self._fetcher.projections(prompt.key, after)
                    for index, rows in found.projections.items():
                        prompt.add(index, rows, max(after - prompt.first_projected, 0))
                    for index, rows in found.guesses.items():
                        prompt.add_guesses(index, rows, max(after - (prompt.n_prompt - 1), 0))
                yield output

    async def _generate(
        self, run: Run, spec: RequestSpec, prompt: Any, params: SamplingParams, request_id: str, options: dict[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        span = SteeringSpan(request_id, options.get("trace_headers"))
        with self._uses.hold(run.vectors):
            async with self._lens.of(spec), self._bank.acquire(run.directions):
                span.leased()
                async with aclosing(self._reported(run, spec, prompt, params, request_id, span, options)) as outputs:
                    async for output in outputs:
                        yield output

    async def _reported(
        self,
        run: Run,
        spec: RequestSpec,
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        span: SteeringSpan,
        options: dict[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        """The engine's outputs; the last one once the worker has reported."""
        collected = False
        lengths = [0] * spec.n
        try:
            outputs: AsyncGenerator[RequestOutput, None] = self._engine.generate(prompt, params, request_id, **options)
            async with aclosing(outputs):
                async for output in outputs:
                    for completion in output.outputs:
                        before = lengths[completion.index] if params.output_kind == RequestOutputKind.DELTA else 0
                        lengths[completion.index] = before + len(completion.token_ids)
                    if output.finished:
                        found = await self._report(spec.key, lengths, output)
                        run.collect(spec.key, found)
                        collected = True
                        count_positions(found.report.steered_prompt, found.report.steered_generated)
                        span.end(run.steering, run.monitor, found)
                    yield output
        finally:
            if not collected:
                self._fetcher.discard(spec.key)

    async def _report(self, key: str, lengths: Sequence[int], output: RequestOutput) -> Collected:
        """Fetch the workers' results of a request that has ended.

        Raises:
            AbortedError: It was aborted before it reached them.
            SteeringFailedError: They failed it, or have no report of it.
        """
        try:
            return await self._fetcher.collect(key, lengths)
        except NoReportError:
            if {completion.finish_reason for completion in output.outputs} == {"abort"}:
                raise AbortedError("the request was aborted before it had begun; send it again") from None
            raise

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
            raise VLLMValidationError(reserved_key_message("vllm_xargs"), parameter="vllm_xargs")
        self.check_prompt(prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None)
        claim_completions(params.n or 1)


def _with_spec(params: SamplingParams, spec: RequestSpec, n_prompt: int) -> SamplingParams:
    params = params.clone()
    params.extra_args = {**(params.extra_args or {}), **spec.to_extra_args()}
    monitors_prompt = spec.monitor is not None and spec.monitor.prompt
    holds = any(term.when is not None and term.when.hold != "token" for term in spec.terms)
    reads_back = any(term.reply is not None and term.reply.reply.first < n_prompt for term in spec.terms)
    if monitors_prompt or holds or reads_back or (spec.capture is not None and reads_prompt(spec.capture, n_prompt)):
        # Positions from the prefix cache never pass the layers, so that they could not be captured or decide a gate.
        params.skip_reading_prefix_cache = True
    return params


def reads_prompt(capture: CaptureSpec, n_prompt: int) -> bool:
    """True if a pool holds a position of the engine's prompt."""
    return any(each.below(n_prompt) for pool in capture.intervals(n_prompt) for each in pool)


async def last_output(outputs: AsyncIterator[RequestOutput]) -> RequestOutput:
    """The finished output of a request.

    Raises:
        AbortedError: An operator aborted it: what it has may be cut short.
        SteeringFailedError: The engine ended without one.
    """
    final = None
    async for output in outputs:
        final = output
    if final is None or not final.finished:
        raise SteeringFailedError("the engine ended without an output")
    if any(completion.finish_reason == "abort" for completion in final.outputs):
        raise AbortedError("the request was aborted before it was finished; send it again")
    return final
