"""vLLM's schedulers with two changes: which prefix-cache blocks a steered request may share, and what ends a request.

A cached block is found by a hash that is chained over all tokens before it. A steered request's blocks that end before
its first steered position hold what the unsteered model computes, and keep vLLM's own hashes: they are shared with
everybody. The first block that holds a steered position gets a key of what the steering does mixed into its hash, and
every later block, generated ones too, inherits it through the chain: it serves equal steering only. The user's own
`cache_salt` and adapters are in vLLM's hashes already.

A request whose steering failed in the worker, or that crossed a bound of its monitor, ends here: the worker says so with
the output of the step, and the step's token becomes an end token, whatever the request's own rules for stopping are.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from trait_core.errors import InvalidRequestError, SteeringFailedError
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import BlockHash, hash_block_tokens
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request

from trait_service.engine.arithmetic import coefficients
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.spec import EXTRA_ARGS_KEY, GateSpec, RequestSpec, TermSpec
from trait_service.engine.step_output import verdict_of

Hasher = Callable[[Request], list[BlockHash]]


class _SteeredScheduling:
    """Changes to both of vLLM's schedulers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        scheduler: Any = self
        if scheduler.connector is not None:
            # Some connectors name blocks by tokens and salt alone.
            raise UnsupportedEngineError("KV connectors are not supported: leave kv_transfer_config out")
        self._hash = get_hash_fn_by_name(scheduler.cache_config.prefix_caching_hash_algo)
        self._end_token = _end_token(scheduler.vllm_config.model_config)
        self._freed_in_flight: dict[str, list[int]] = {}
        self._steered_sessions: set[str] = set()

    def add_request(self, request: Request) -> None:
        """As vLLM does, after the request's steering has entered its block hashes."""
        scheduler: Any = self
        # A request that continues a streaming session brings tokens only: its hasher is never called.
        if request.request_id not in scheduler.requests:
            branch_hashes(request, scheduler.hash_block_size, self._hash)
            if request.resumable and _has_spec(request):
                self._steered_sessions.add(request.request_id)
        super().add_request(request)  # type: ignore[misc]

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> Any:
        """As vLLM does; requests that get no more text end, and the blocks of failed ones leave the prefix cache."""
        verdict = verdict_of(model_runner_output)
        for request_id in verdict.failed:
            self._forget_blocks(request_id)
        for request_id in dict.fromkeys([*verdict.failed, *verdict.ended]):
            self._end(request_id, model_runner_output)
        if self._freed_in_flight:
            for request_id in scheduler_output.num_scheduled_tokens:
                self._freed_in_flight.pop(request_id, None)
        return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._steered_sessions.discard(request.request_id)
        if request.num_in_flight_tokens > 0 and _has_spec(request):
            self._freed_in_flight[request.request_id] = self._blocks(request.request_id)
        return super()._free_request(request, *args, **kwargs)  # type: ignore[misc]

    def _forget_blocks(self, request_id: str) -> None:
        """Take the blocks of a failed request out of the prefix cache: they were computed unsteered, under hashes that say otherwise.

        It may have been aborted while the step ran.
        """
        scheduler: Any = self
        blocks = self._freed_in_flight.get(request_id) or self._blocks(request_id)
        scheduler.kv_cache_manager.evict_blocks(set(blocks))

    def _blocks(self, request_id: str) -> list[int]:
        scheduler: Any = self
        return [block for group in scheduler.kv_cache_manager.get_block_ids(request_id) for block in group]

    def _end(self, request_id: str, output: ModelRunnerOutput) -> None:
        """Make the step's token of a request an end token, and its last."""
        scheduler: Any = self
        request = scheduler.requests.get(request_id)
        index = output.req_id_to_index[request_id]
        if request is None or request.is_finished() or not output.sampled_token_ids[index]:
            return  # gone, or still in its prompt
        output.sampled_token_ids[index] = [self._end_token]
        if output.logprobs is not None:
            _say_certain(output.logprobs, index, self._end_token)
        params = copy(request.sampling_params)
        params._eos_token_id = self._end_token  # noqa: SLF001 - None if the request ignores it
        request.sampling_params = params
        request.structured_output_request = None  # a grammar need not accept the end here


class TraitScheduler(_SteeredScheduling, Scheduler):  # type: ignore[misc]
    """vLLM's synchronous scheduler; steered requests get separate block hashes from the first steered position on."""


class TraitAsyncScheduler(_SteeredScheduling, AsyncScheduler):  # type: ignore[misc]
    """vLLM's asynchronous scheduler; steered requests get separate block hashes from the first steered position on."""

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        super()._update_after_schedule(scheduler_output)
        for request_id in self._steered_sessions & scheduler_output.num_scheduled_tokens.keys():
            # The turn may end with this step: a position beyond it would be computed again, with another token.
            self.requests[request_id].next_decode_eligible_step = self.current_step + 2


def _end_token(model_config: Any) -> int:
    """Token that ends a request which gets no more text; it is not part of its text."""
    token = getattr(model_config.hf_text_config, "eos_token_id", None)
    if isinstance(token, list):
        token = token[0] if token else None
    return 0 if token is None else int(token)


def _say_certain(logprobs: LogprobsLists, index: int, token: int) -> None:
    """Replace the log-probabilities of a step's token, which is not handed out, by those of a certain token."""
    row = index if logprobs.cu_num_generated_tokens is None else logprobs.cu_num_generated_tokens[index]
    logprobs.logprob_token_ids[row] = token
    logprobs.logprobs[row] = 0.0
    logprobs.sampled_token_ranks[row] = 1


def _has_spec(request: Request) -> bool:
    params = request.sampling_params
    return params is not None and EXTRA_ARGS_KEY in (params.extra_args or {})


class CacheBranch(NamedTuple):
    """The position at which a request's blocks differ from the baseline's, and the key of the difference."""

    position: int
    key: bytes

    @classmethod
    def private(cls) -> "CacheBranch":
        """A branch whose blocks are never shared."""
        return cls(0, secrets.token_bytes(32))


def branch_hashes(request: Request, hash_block_size: int, hash_function: Callable[[Any], bytes]) -> None:
    """Make a new request's steering part of its block hashes, present and future.

    Args:
        request: As vLLM made it.
        hash_block_size: Tokens of a hashed block.
        hash_function: The engine's.
    """
    vllms = request._block_hasher  # noqa: SLF001 - vLLM hands it to the constructor only
    branch = branch_of_request(request)
    if branch is None or vllms is None:
        return
    block = branch.position // hash_block_size
    request._block_hasher = BranchingHasher(vllms, hash_function, block, branch.key)  # noqa: SLF001
    del request.block_hashes[block:]
    request.update_block_hashes()


class BranchingHasher:
    """vLLM's hasher, but for one block whose hash gets a key; all that follow are chained to it.

    Args:
        vllms: vLLM's hasher: the hashes of a request's new full blocks, chained to the last one it has.
        hash_function: The engine's.
        block: Index of the block that gets the key.
        key: The key.
    """

    def __init__(self, vllms: Hasher, hash_function: Callable[[Any], bytes], block: int, key: bytes) -> None:
        self._vllms = vllms
        self._hash = hash_function
        self._block = block
        self._key = key

    def __call__(self, request: Request) -> list[BlockHash]:
        """Hashes of the new full blocks; those up to the keyed one are appended here, since the rest is chained to it."""
        hashes = self._vllms(request)
        at = self._block - len(request.block_hashes)
        if not 0 <= at < len(hashes):
            return hashes
        # No block of vLLM's has no tokens, so that no other hash can equal this one.
        keyed = hash_block_tokens(self._hash, hashes[at], (), ((EXTRA_ARGS_KEY, self._key),))
        request.block_hashes += [*hashes[:at], keyed]
        return self._vllms(request)


def branch_of_request(request: Request) -> CacheBranch | None:
    """The branch of a request as vLLM holds it; None if it is not steered."""
    params = request.sampling_params
    try:
        spec = RequestSpec.from_extra_args(None if params is None else params.extra_args)
    except SteeringFailedError:
        return CacheBranch.private()  # the worker fails it and says why
    if spec is None or not spec.terms:
        return None
    if request.resumable:
        return CacheBranch.private()  # a session's prompt grows while its scopes stay
    try:
        branch = branch_of(spec.terms, request.num_prompt_tokens)
    except InvalidRequestError:
        return CacheBranch.private()
    if branch is None:
        return None
    # Tokens of one image may attend to each other in both directions.
    spans = [feature.mm_position for feature in request.mm_features]
    starts = [span.offset for span in spans if span.offset <= branch.position < span.offset + span.length]
    return branch._replace(position=min([branch.position, *starts]))


def branch_of(terms: Sequence[TermSpec], n_prompt: int) -> CacheBranch | None:
    """The first position that a term touches, and a digest of all that changes the residual stream.

    Args:
        terms: In the order in which they act.
        n_prompt: The request's own prompt length.

    Returns:
        None where no position is touched.

    Raises:
        InvalidRequestError: A scope cannot be told yet.
    """
    acting = []
    for term in terms:
        intervals = [tuple(each) for each in term.intervals(n_prompt) if each]
        if term.reply is not None:  # the tokens that decide are in the hash of every block that they decide on
            intervals.append(tuple(term.reply.interval))
        if intervals:
            mode, *numbers = coefficients(term)
            bits = np.array(numbers, dtype=np.float32).tobytes()  # as the request table holds them
            gate = term.when and _identity(term.when)
            acting.append((intervals, term.at, term.layer, term.direction, mode, bits, gate, term.reply))
    if not acting:
        return None
    first = min(start for intervals, *_ in acting for start, *_ in intervals)
    return CacheBranch(first, hashlib.sha256(repr(acting).encode()).digest())


def _identity(gate: GateSpec) -> tuple[object, ...]:
    """All that decides where a gate is open; the bound as the request table holds it."""
    return gate.layer, gate.direction, gate.above is None, np.float32(gate.bound).tobytes(), gate.hold, gate.n_prompt
