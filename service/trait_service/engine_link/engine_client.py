"""The seam between vLLM's HTTP handlers and its engine: every request of the service passes `generate` here.

vLLM's serving objects hold this client in place of theirs. It looks at the rendered prompt, holds the request's
directions in the vector bank while it runs, and fetches the worker's report before the last output is handed on: a
request that failed in the worker has no answer. The prefix cache is the scheduler's concern.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from trait_core.errors import InvalidRequestError, SteeringFailedError
from trait_core.schema import ActedPositions, MonitorReport, SteeredPositions, SteeringReport
from vllm.exceptions import VLLMValidationError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from trait_service.access.admission import claim_completions
from trait_service.engine.spec import EXTRA_ARGS_KEY, CaptureSpec, RequestSpec, TermSpec, reserved_key_message
from trait_service.engine_link.bank_client import BankClient
from trait_service.engine_link.lens_room import LensRoom
from trait_service.engine_link.result_fetcher import NoReportError, ResultFetcher
from trait_service.engine_link.spans import SteeringSpan
from trait_service.engine_link.workers import Collected
from trait_service.errors import AbortedError, PromptRefusedError
from trait_service.metrics import count_positions, count_run
from trait_service.registry.uses import VectorUses
from trait_service.resolving.landmarks import Turns
from trait_service.resolving.monitoring import Decode, MonitoredPrompt, ResolvedMonitor
from trait_service.resolving.placing import Placed, Placer
from trait_service.resolving.resolve import ResolvedSteering
from trait_service.resolving.scopes import check_scopes
from trait_service.resolving.stream_lens import LensRows, TokenText

STEERABLE_PROMPTS = ("token", "multimodal")


@dataclass
class Run:
    """One HTTP request's work in the engine: what it asks for, and what the workers report.

    Args:
        steering: None reads or generates unsteered.
        capture: Pools to keep; None keeps none.
        monitor: Projections to answer; None answers none.
        collected: One entry for each finished prompt of the request.
        monitored: One entry for each prompt of a monitored request.
        started: Prompts that were handed to the engine.
        columns_named: A report with the columns' names was made.
        terms: The steering's terms with their scopes placed in this prompt; None: as they are.
        turns: The turns of the chat; None: it is none, or no scope names them.
    """

    steering: ResolvedSteering | None = None
    capture: CaptureSpec | None = None
    monitor: ResolvedMonitor | None = None
    collected: list[Collected] = field(default_factory=list)
    monitored: list[MonitoredPrompt] = field(default_factory=list)
    started: int = 0
    columns_named: bool = False
    terms: Sequence[TermSpec] | None = None
    turns: Turns | None = None

    @property
    def directions(self) -> dict[str, bytes]:
        """sha256 hex -> float32 bytes of every direction that must be in the vector bank."""
        steering = self.steering.directions if self.steering else {}
        return steering | (self.monitor.directions if self.monitor else {})

    @property
    def vectors(self) -> set[str]:
        """`sha256:...` of every vector file that the request uses."""
        steering = self.steering.vectors if self.steering else set()
        return steering | ({column.sha256 for column in self.monitor.columns} if self.monitor else set())

    @property
    def steered_terms(self) -> Sequence[TermSpec]:
        """The terms as they travel to the workers."""
        if self.terms is not None:
            return self.terms
        return self.steering.terms if self.steering else ()

    def new_spec(
        self, n: int, prompt_ids: list[int], decode: Decode, token_text: TokenText, terms: Sequence[TermSpec]
    ) -> RequestSpec:
        """The spec for one more prompt of the request, with a new key.

        Args:
            n: Completions of the prompt.
            prompt_ids: Its tokens.
            decode: Returns the text of token ids.
            token_text: Returns the text of one.
            terms: The terms, placed in it.
        """
        key = secrets.token_hex(16)
        if self.monitor is not None:
            lens = None if self.monitor.lens is None else LensRows(self.monitor.lens, token_text)
            self.monitored.append(MonitoredPrompt(self.monitor, key, prompt_ids, self.started * n, decode, lens))
        self.started += 1
        return RequestSpec(
            key=key,
            n=n,
            terms=list(terms),
            capture=self.capture,
            monitor=self.monitor.spec if self.monitor else None,
            lens=self.monitor.lens if self.monitor else None,
        )

    def collect(self, key: str, collected: Collected) -> None:
        """Add the workers' results of a finished prompt."""
        self.collected.append(collected)
        for prompt in self.monitored:
            if prompt.key == key:
                prompt.hits = {hit.completion: hit for hit in collected.report.bound_hits}
                for completion, rows in collected.rows.projections.items():
                    prompt.add(completion, rows, 0)
                for completion, rows in collected.rows.guesses.items():
                    prompt.add_guesses(completion, rows, 0)

    @property
    def ended(self) -> bool:
        """True once every prompt of the request has finished and been reported."""
        return 0 < self.started == len(self.collected)

    def monitor_report(self) -> MonitorReport | None:
        """The `monitor` block of the response, or of the next chunk: rows that arrived since the last call.

        The first one with rows names the columns; those of the following chunks do not repeat them.

        Raises:
            SteeringFailedError: A token was emitted before its projection arrived.
        """
        if self.monitor is None:
            return None
        choices = [choice for prompt in self.monitored for choice in prompt.take()]
        names, self.columns_named = bool(choices) and not self.columns_named, self.columns_named or bool(choices)
        layers = self.monitor.lens.layers if self.monitor.lens else []
        return MonitorReport(
            directions=list(self.monitor.columns) if names else [], lens_layers=layers if names else [], choices=choices
        )

    def report(self) -> SteeringReport:
        """The `steering` block of the response, summed over the request's prompts.

        Raises:
            SteeringFailedError: A prompt has no report.
        """
        if self.steering is None or not self.ended:
            raise SteeringFailedError(f"{len(self.collected)} of {self.started} prompts were reported as steered")
        return report_of(self.steering, self.collected)


def report_of(steering: ResolvedSteering, collected: list[Collected]) -> SteeringReport:
    """The report of what was applied, and to how many positions of all prompts together."""
    reports = [item.report for item in collected]
    return SteeringReport(
        applied=[
            term.model_copy(update={"acted": _acted([report.acted[i] for report in reports if report.acted])})
            for i, term in enumerate(steering.applied)
        ],
        positions=SteeredPositions(
            prompt=sum(report.steered_prompt for report in reports),
            generated=sum(report.steered_generated for report in reports),
            cached=sum(report.steered_cached for report in reports),
        ),
    )


def _acted(counts: list[tuple[int, int]]) -> ActedPositions:
    """Prompt and generated positions of one term, summed over prompts."""
    return ActedPositions(prompt=sum(prompt for prompt, _ in counts), generated=sum(after for _, after in counts))


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
        spec = run.new_spec(sampling_params.n or 1, ids, self._decode, self._lens.token_text, terms)
        if watched is not None:
            run.monitored[-1].positions, run.monitored[-1].reply = watched.known, watched.reply
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
        SteeringFailedError: The engine ended without one.
    """
    final = None
    async for output in outputs:
        final = output
    if final is None or not final.finished:
        raise SteeringFailedError("the engine ended without an output")
    return final
