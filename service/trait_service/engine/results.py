"""Results of finished requests, kept until they are fetched."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from trait_service.engine.capture_rows import PoolReading
from trait_service.engine.requests import LiveRequest
from trait_service.engine.spec import RequestReport

logger = logging.getLogger(__name__)

Captured = dict[str, torch.Tensor]
"""Tensors of one request: `mean`, `norm` and `count` of its pools, `projections/<completion>` of its monitor,
`lens/<completion>`, `each` position."""


@dataclass(frozen=True)
class Finished:
    """A request that is done, or is fetched as if it were.

    It may have been computed one position too far: how many tokens its text has is known when the result is fetched.

    Args:
        request: The request.
        pooled: Its pools; None if it has none.
        each: `(n_positions, n_layers_kept, d_model)` float32: every position of its one pool; None if not asked.
        projects: This worker answers its projections.
        guesses: This worker answers what its lens has read.
    """

    request: LiveRequest
    pooled: PoolReading | None
    each: np.ndarray | None
    projects: bool
    guesses: bool = False

    @property
    def holds_tensors(self) -> bool:
        """True if something was captured or projected."""
        return self.request.error is None and (
            self.pooled is not None or self.each is not None or self.projects or self.guesses
        )

    def tensors(self, limit: int) -> Captured:
        """Captures and projections of the positions below a limit."""
        request = self.request
        if request.error is not None:
            return {}
        tensors: Captured = {} if self.pooled is None else self.pooled.means(limit)
        if self.each is not None:
            tensors["each"] = torch.from_numpy(self.each[: sum(each.below(limit) for each in request.pools[0])])
        if self.projects:
            tensors[f"projections/{request.completion}"] = request.projections_between(0, limit)
        if self.guesses:
            tensors[f"lens/{request.completion}"] = request.guesses_between(0, limit)
        return tensors


class Results:
    """Finished requests by their key; completions of one prompt (`n > 1`) share it.

    Args:
        limit: Largest number of waiting results; beyond it the oldest is dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._finished: OrderedDict[str, list[Finished]] = OrderedDict()

    def keep(self, finished: Finished) -> None:
        """Keep a request's result."""
        self._finished.setdefault(finished.request.spec.key, []).append(finished)
        while len(self._finished) > self._limit:
            dropped, _ = self._finished.popitem(last=False)
            logger.warning(
                "the result of request %s was never fetched: dropped, since at most %d wait (--max-results-waiting)",
                dropped,
                self._limit,
            )

    def take(self, lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return results and forget them.

        Args:
            lengths: Key -> generated tokens of each completion, by its index; positions that were computed beyond the text
                are left out. Empty if not known: then all count.

        Returns:
            `reports`: key -> `RequestReport` as a dictionary. `captures`: safetensors bytes with `<key>/mean`
            float32 `(n_pools, n_layers_kept, d_model)`, `<key>/norm` float32 `(n_pools, n_layers_kept)` and
            `<key>/count` int32 `(n_pools,)`; `<key>/projections/<completion>` float32 `(n_positions, n_columns)`;
            `<key>/lens/<completion>` float32 `(n_positions, n_layers * 2 * top_k)`;
            `<key>/each` float32 `(n_positions, n_layers_kept, d_model)`.
            An unknown key is missing.
        """
        reports: dict[str, Any] = {}
        tensors: Captured = {}
        for key, of_completion in lengths.items():
            found = [(each, _limit(each.request, of_completion)) for each in self._finished.pop(key, [])]
            if found:
                reports[key] = asdict(reduce(RequestReport.plus, (done.request.report(limit) for done, limit in found)))
            for done, limit in found:
                tensors |= {f"{key}/{name}": tensor for name, tensor in done.tensors(limit).items()}
        return {"reports": reports, "captures": save(tensors) if tensors else b""}

    def stats(self) -> dict[str, int]:
        """Numbers of results that wait."""
        return {
            "reports_waiting": len(self._finished),
            "captures_waiting": sum(any(each.holds_tensors for each in found) for found in self._finished.values()),
        }


def _limit(request: LiveRequest, lengths: Sequence[int]) -> int:
    return request.limit(lengths[request.completion] if request.completion < len(lengths) else None)
