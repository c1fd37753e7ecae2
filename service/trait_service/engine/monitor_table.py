"""The sets of directions that a step projects on, and the tokens of each in tiles, as the CUDA kernel reads them."""

import numpy as np
import torch
from trait_core.schema import MAX_MONITORED

from trait_service.engine.buffers import Mirrored, on_device
from trait_service.engine.direction_sets import DirectionSet
from trait_service.engine.monitored_tokens import MonitoredTokens, StepTokens, TokenRows

TILE_TOKENS = 4
"""Tokens of one tile: all of them have the same set."""

HEADER_WORDS, TILE_WORDS = 4, 4
"""Words before the tiles: number of tiles, numbers of a row of the values, word at which the places begin, 0. Words of a tile:
row of its set, row of its first token in the values, number of its tokens, 0."""


class MonitorTable:
    """Sets and tiles on the device; their numbers are read there, so that a CUDA graph serves any batch.

    Attributes:
        sets: `(n_rows, n_layers + 1 + MAX_MONITORED)` int32. A set's row: the first direction of each layer and one past the
            last, then for each direction twice its bank row, plus 1 for the cosine.
        most: `(n_layers,)` int32: directions of the largest set of the batch on each layer.
        tiles: int32 words: the header, the tiles, and the places of the tokens in the step.
        values: `(max_tokens * MAX_MONITORED,)` float32: a row for each monitored token, one after the other.
        n_tokens: Monitored tokens of the step.

    Args:
        n_layers: Sites of the engine (`Sites`).
        n_rows: Sets that fit: a batch has no more than requests.
        max_tokens: The most tokens in one step.
        device: Where the kernel runs.
    """

    def __init__(self, n_layers: int, n_rows: int, max_tokens: int, device: torch.device) -> None:
        self.n_layers = n_layers
        self.sets = torch.zeros((n_rows, n_layers + 1 + MAX_MONITORED), dtype=torch.int32, device=device)
        self._most = Mirrored((n_layers,), np.int32, device)
        self._free = list(range(n_rows - 1, -1, -1))
        self._row_of: dict[DirectionSet, int] = {}
        most_tiles = max_tokens // TILE_TOKENS + min(n_rows, max_tokens)
        self._words = Mirrored((HEADER_WORDS + TILE_WORDS * most_tiles + max_tokens,), np.int32, device)
        self.values = torch.zeros(max_tokens * MAX_MONITORED, dtype=torch.float32, device=device)
        self.n_tokens = 0
        self._listed: TokenRows | None = None

    @property
    def tiles(self) -> torch.Tensor:
        """The words of the step."""
        return self._words.tensor

    @property
    def most(self) -> torch.Tensor:
        """Directions of the largest set on each layer."""
        return self._most.tensor

    def acts(self, layer: int) -> bool:
        """True if a request of the batch monitors a layer."""
        return bool(self._most.array[layer])

    def update(self, monitored: MonitoredTokens) -> None:
        """Write the sets that have joined with a batch; one that its requests shared with the last batch stays."""
        present = set(monitored.sets)
        for gone in [each for each in self._row_of if each not in present]:
            self._free.append(self._row_of.pop(gone))
        joining = [each for each in monitored.sets if each not in self._row_of]
        for each in joining:
            self._row_of[each] = self._free.pop()
        if joining:
            self._write(joining)
        self._listed = None
        self._set_row = np.array([self._row_of[each] for each in monitored.sets], dtype=np.int64)
        self._width = monitored.width
        most = np.zeros(self.n_layers, dtype=np.int32)
        for each in monitored.sets:
            np.maximum(most, each.per_layer(self.n_layers), out=most)
        if not np.array_equal(most, self._most.array):
            self._most.array[:] = most
            self._most.flush()

    def _write(self, joining: list[DirectionSet]) -> None:
        words = np.zeros((len(joining), 1 + self.sets.shape[1]), dtype=np.int32)
        for row, each in zip(words, joining, strict=True):
            row[0] = self._row_of[each]
            row[2 : self.n_layers + 2] = np.cumsum(each.per_layer(self.n_layers))
            row[self.n_layers + 2 : self.n_layers + 2 + len(each)] = 2 * each.bank_row + each.cosine
        sent = on_device(words, self.sets.device)
        self.sets.index_copy_(0, sent[:, 0].long(), sent[:, 1:])

    def fill(self, tokens: StepTokens | None) -> None:
        """List the monitored tokens of a step: one copy to the device, and none if it has them already."""
        if tokens is None:
            self.clear()
            return
        rows = tokens.rows
        if rows is self._listed:
            return
        self._listed, self.n_tokens = rows, len(rows.place)
        n_tiles_of = -(-(rows.set_end - rows.set_begin) // TILE_TOKENS)
        of_set = np.repeat(np.arange(len(n_tiles_of)), n_tiles_of)
        order = np.arange(len(of_set)) - (np.cumsum(n_tiles_of) - n_tiles_of)[of_set]
        first = rows.set_begin[of_set] + order * TILE_TOKENS
        words = self._words.array
        at_places = HEADER_WORDS + TILE_WORDS * len(of_set)
        words[:HEADER_WORDS] = len(of_set), self._width, at_places, 0
        tiles = words[HEADER_WORDS:at_places].reshape(-1, TILE_WORDS)
        tiles[:, 0] = self._set_row[of_set]
        tiles[:, 1] = first
        tiles[:, 2] = np.minimum(rows.set_end[of_set] - first, TILE_TOKENS)
        words[at_places : at_places + self.n_tokens] = rows.place
        self._words.flush(at_places + self.n_tokens)

    def clear(self) -> None:
        """Empty the list."""
        if self.n_tokens:
            self.n_tokens, self._listed = 0, None
            self._words.array[0] = 0
            self._words.flush(1)

    def step_values(self) -> torch.Tensor:
        """`(n_tokens, n_directions)` float32, on the device: the step's projections."""
        return self.values[: self.n_tokens * self._width].view(self.n_tokens, self._width)
