"""vLLM's scheduler with one change: which prefix-cache blocks a steered request may share.

A cached block is found by a hash that is chained over all tokens before it. A steered request's blocks that end before
its first steered position hold what the unsteered model computes, and keep vLLM's own hashes: they are shared with
everybody. The first block that holds a steered position gets a key of what the steering does mixed into its hash, and
every later block, generated ones too, inherits it through the chain: it serves equal steering only. The user's own
`cache_salt` and adapters are in vLLM's hashes already.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from trait_core.errors import SteeringFailedError
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import BlockHash, hash_block_tokens
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from trait_service.engine.arithmetic import coefficients
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.requests import scope_interval
from trait_service.engine.spec import EXTRA_ARGS_KEY, RequestSpec, TermSpec

FAILED_REQUESTS = "trait_failed"
"""Attribute of a step's `ModelRunnerOutput`: ids of requests whose steering failed in the worker."""

Hasher = Callable[[Request], list[BlockHash]]


class TraitScheduler(Scheduler):
    """vLLM's scheduler; steered requests get separate block hashes from the first steered position on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.connector is not None:
            # Some connectors name blocks by tokens and salt alone.
            raise UnsupportedEngineError("KV connectors are not supported: leave kv_transfer_config out")
        self._hash = get_hash_fn_by_name(self.cache_config.prefix_caching_hash_algo)

    def add_request(self, request: Request) -> None:
        """As vLLM does, after the request's steering has entered its block hashes."""
        # A request that continues a streaming session brings tokens only: its hasher is never called.
        if request.request_id not in self.requests:
            branch_hashes(request, self.hash_block_size, self._hash)
        super().add_request(request)

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> Any:
        """As vLLM does; blocks of requests that could not be steered are taken out of the prefix cache.

        They were computed unsteered, under hashes that say otherwise.
        """
        for request_id in vars(model_runner_output).get(FAILED_REQUESTS, ()):
            for group in self.kv_cache_manager.get_block_ids(request_id):
                self.kv_cache_manager.evict_blocks(set(group))
        return super().update_from_output(scheduler_output, model_runner_output)


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
    branch = branch_of(spec.terms, request.num_prompt_tokens)
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
    """
    acting = []
    for term in terms:
        start, stop = scope_interval(term, n_prompt)
        if start < stop:
            mode, *numbers = coefficients(term)
            bits = np.array(numbers, dtype=np.float32).tobytes()  # as the request table holds them
            acting.append((start, stop, term.layer, term.direction, mode, bits))
    if not acting:
        return None
    return CacheBranch(min(start for start, *_ in acting), hashlib.sha256(repr(acting).encode()).digest())
