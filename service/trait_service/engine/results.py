"""Results of finished requests, kept until they are fetched."""

import logging
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save

from trait_service.engine.spec import RequestReport

logger = logging.getLogger(__name__)

Captured = dict[str, torch.Tensor]
"""Tensors of one request: `mean`, `norm` and `count` of its pools, `projections/<completion>` of its monitor, `each` position."""


class Results:
    """Reports and pooled captures by request key.

    Args:
        limit: Largest number of waiting results; beyond it the oldest is dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reports: OrderedDict[str, RequestReport] = OrderedDict()
        self._captured: dict[str, Captured] = {}

    def keep(self, report: RequestReport, captured: Captured | None) -> None:
        """Keep a request's result; requests that share a key (`n > 1`) are summed.

        Args:
            report: The worker's report.
            captured: None if nothing was captured.
        """
        earlier = self._reports.get(report.key)
        self._reports[report.key] = report if earlier is None else earlier.plus(report)
        if captured is not None:
            self._captured.setdefault(report.key, {}).update(captured)
        while len(self._reports) > self._limit:
            dropped, _ = self._reports.popitem(last=False)
            self._captured.pop(dropped, None)
            logger.warning(
                "the result of request %s was never fetched: dropped, since at most %d wait (--max-results-waiting)",
                dropped,
                self._limit,
            )

    def take(self, keys: list[str]) -> dict[str, Any]:
        """Return results and forget them.

        Returns:
            `reports`: key -> `RequestReport` as a dictionary. `captures`: safetensors bytes with `<key>/mean`
            float32 `(n_pools, n_layers_kept, d_model)`, `<key>/norm` float32 `(n_pools, n_layers_kept)` and
            `<key>/count` int32 `(n_pools,)`; `<key>/projections/<completion>` float32 `(n_positions, n_columns)`;
            `<key>/each` float32 `(n_positions, n_layers_kept, d_model)`.
            An unknown key is missing.
        """
        reports = {key: asdict(self._reports.pop(key)) for key in keys if key in self._reports}
        tensors = {f"{key}/{name}": tensor for key in keys for name, tensor in self._captured.pop(key, {}).items()}
        return {"reports": reports, "captures": save(tensors) if tensors else b""}

    def stats(self) -> dict[str, int]:
        """Numbers of results that wait."""
        return {"reports_waiting": len(self._reports), "captures_waiting": len(self._captured)}
