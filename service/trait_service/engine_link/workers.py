"""Calls to the engine's workers; no other module uses vLLM's RPC.

A call answers once per worker of every engine. Workers of one engine know the same requests: tensor-parallel ones hold
the same activations, and one of them answers for all; pipeline-parallel ones hold their own layers'. Engines hold
different requests (data parallelism).
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy
from trait_core.errors import InvalidRequestError, SteeringFailedError

from trait_service.engine.spec import RequestReport

START_LIMIT_S = 120
"""Seconds to wait for a worker at start-up: an idle one answers at once, a lost answer never comes."""


@dataclass(frozen=True)
class Rows:
    """Numbers that are read at one position after the other, for each completion of a prompt.

    Args:
        projections: Completion -> `(n_positions, n_columns)` float32; see `resolving.monitoring`.
        guesses: Completion -> `(n_positions, n_layers * 2 * top_k)` float32, of a lens; see `resolving.stream_lens`.
    """

    projections: Mapping[int, np.ndarray] = field(default_factory=dict)
    guesses: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Capture:
    """Pooled activations of one request.

    Args:
        mean: `(n_pools, n_layers_read, d_model)` float32, residual units.
        norm: `(n_pools, n_layers_read)` float32, mean of the token norms, residual units.
        count: `(n_pools,)` int32, positions pooled.
    """

    mean: np.ndarray
    norm: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Collected:
    """The workers' results of one finished request.

    Args:
        each: `(n_positions, n_layers_read, d_model)` float32, residual units; None unless every position was captured.
        rows: Projections, and what the lens has read.
    """

    report: RequestReport
    capture: Capture | None = None
    each: np.ndarray | None = None
    rows: Rows = field(default_factory=Rows)


class Workers:
    """The workers behind vLLM's engine client.

    Args:
        engine: vLLM's `AsyncLLM`, or anything with its `collective_rpc`.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def info(self) -> dict[str, Any]:
        """Shape of the loaded model, operations and versions.

        Raises:
            SteeringFailedError: No worker answers: it is not the plugin's, or its answer was lost.
        """
        try:
            async with asyncio.timeout(START_LIMIT_S):
                answers = await self._call("trait_info")
        except TimeoutError:
            raise SteeringFailedError(f"the workers did not answer trait_info within {START_LIMIT_S} s") from None
        found = [answer for answer in itertools.chain.from_iterable(answers) if answer]
        if not found:
            raise SteeringFailedError("no worker answered trait_info: the engine runs without the plugin's worker")
        # The last stage of a pipeline has the model's head.
        return {**found[0], "lens": next((answer["lens"] for answer in found if answer.get("lens")), None)}

    async def update_bank(self, put: dict[str, bytes], drop: list[str]) -> None:
        """Drop directions from the vector bank, then put new ones in.

        Raises:
            SteeringFailedError: A worker has no room for a direction, or it does not fit.
        """
        for refused in itertools.chain.from_iterable(await self._call("trait_update_bank", put, drop)):
            if refused:
                raise SteeringFailedError(refused)

    async def collect(self, lengths: Mapping[str, Sequence[int]]) -> dict[str, Collected]:
        """Take reports and captures of finished requests; a key unknown to all workers is missing.

        Args:
            lengths: Key -> generated tokens of each completion: positions computed beyond them do not count.
        """
        reports: dict[str, RequestReport] = {}
        tensors: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for answers in await self._call(
            "trait_collect", {key: list(of_completion) for key, of_completion in lengths.items()}
        ):
            found: dict[str, dict[str, Any]] = next((a["reports"] for a in answers if a and a["reports"]), {})
            for key, fields in found.items():
                report = RequestReport.from_fields(fields)
                reports[key] = reports[key].plus(report) if key in reports else report
            for key, read in _merged([a["captures"] for a in answers if a and a["captures"]]).items():
                tensors[key] |= read
        return {key: _collected(report, tensors[key]) for key, report in reports.items()}

    async def projections(self, after: dict[str, int]) -> dict[str, Rows]:
        """Projections of requests that still run, and what their lens has read.

        Args:
            after: Key -> first absolute position that is not known.

        Returns:
            Key -> the rows from there on; a key that is not running is missing.
        """
        found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for answers in await self._call("trait_projections", after):
            for key, read in _merged([blob for blob in answers if blob]).items():
                found[key] |= read
        return {key: _rows(read) for key, read in found.items()}

    async def lens(
        self, directions: np.ndarray, top_k: int, n_vocabulary: int
    ) -> dict[str, dict[str, list[list[Any]]]]:
        """Rank the vocabulary by directions, through the model's own final norm and unembedding.

        Args:
            directions: `(n, d_model)` float32.
            top_k: Number of tokens at either end.
            n_vocabulary: Number of the tokenizer's tokens.

        Returns:
            `promoted` and `suppressed`: `tokens` and `z`, each a list for each direction, the most extreme first.

        Raises:
            InvalidRequestError: Vectors of this model cannot be read so; the message says why.
            SteeringFailedError: No worker answers.
        """
        rows = np.ascontiguousarray(directions, "<f4").tobytes()
        for answer in itertools.chain.from_iterable(await self._call("trait_lens", rows, top_k, n_vocabulary)):
            if isinstance(answer, str):
                raise InvalidRequestError(answer)
            if answer:
                return dict(answer)
        raise SteeringFailedError("no worker answered trait_lens")

    async def discard(self, keys: Sequence[str]) -> None:
        """Discard requests whose client has disconnected."""
        await self._call("trait_discard", list(keys))

    async def _call(self, name: str, *args: Any) -> list[list[Any]]:
        """Answers by engine, then by worker."""
        config = getattr(self._engine, "vllm_config", None)
        if config is None or config.parallel_config.data_parallel_size == 1:
            return [await self._engine.collective_rpc(name, args=args)]
        # AsyncLLM.collective_rpc hands back the first engine's answers only.
        every: Iterable[list[Any]] = await self._engine.engine_core.call_utility_all_async(
            "collective_rpc", name, None, args, None
        )
        return list(every)


def _merged(of_stages: list[bytes]) -> dict[str, dict[str, np.ndarray]]:
    """One engine's tensors by request key, then by name: the sum over its pipeline stages.

    A stage holds zeros for the layers of the others.
    """
    merged: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for blob in of_stages:
        for path, tensor in safetensors.numpy.load(blob).items():
            key, _, name = path.partition("/")
            before = merged[key].get(name)
            if before is None:
                merged[key][name] = tensor
            elif name != "count":
                n = min(len(before), len(tensor))  # a stage may be a step ahead of the next one
                merged[key][name] = before[:n] + tensor[:n]
    return merged


def _collected(report: RequestReport, tensors: Mapping[str, np.ndarray]) -> Collected:
    capture = Capture(tensors["mean"], tensors["norm"], tensors["count"]) if "mean" in tensors else None
    return Collected(report, capture, tensors.get("each"), _rows(tensors))


def _rows(tensors: Mapping[str, np.ndarray]) -> Rows:
    return Rows(_by_completion(tensors, "projections/"), _by_completion(tensors, "lens/"))


def _by_completion(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[int, np.ndarray]:
    return {int(name.removeprefix(prefix)): rows for name, rows in tensors.items() if name.startswith(prefix)}
