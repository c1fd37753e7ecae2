"""Fixes for errors of vLLM 0.32's CPU runner, in a subclass of it."""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class RewoundSeedsMixin:
    """A seeded request draws no random numbers for a discarded token.

    vLLM samples a token for every row of a step, those amid their prompt too, and then turns those rows' generators back by an
    offset that only CUDA's generators have: on the CPU a seeded request whose prompt is read in pieces ends the engine.
    Here the generators of such rows are put back to the state that they had.
    """

    input_batch: Any
    discard_request_mask: Any

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        before = {index: generator.get_state() for index, generator in self._unfinished_prompts().items()}
        output = super()._sample(*args, **kwargs)  # type: ignore[misc]
        for index, state in before.items():
            self.input_batch.generators[index].set_state(state)
        return output

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        with self._without(self._unfinished_prompts()):
            return super()._bookkeeping_sync(*args, **kwargs)  # type: ignore[misc]

    def _unfinished_prompts(self) -> dict[int, torch.Generator]:
        """Seeded rows whose token of this step does not count."""
        generators: dict[int, torch.Generator] = self.input_batch.generators
        if not generators:
            return {}
        rows = np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])
        return {int(row): generators[int(row)] for row in rows if int(row) in generators}

    @contextmanager
    def _without(self, generators: Mapping[int, torch.Generator]) -> Any:
        """Hide these generators from vLLM, which would rewind them."""
        everything: dict[int, torch.Generator] = self.input_batch.generators
        for row in generators:
            del everything[row]
        try:
            yield
        finally:
            everything.update(generators)
