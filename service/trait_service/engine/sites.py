"""The sites of an engine: the places in the model at which it steers, captures and monitors, by one index.

A site is a hook point of a layer. Those of `resid_post` come first, so that without further hook points a site's index is
its layer. The tables of a step (terms, pools, monitored directions) know sites only, and call their index `layer`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from trait_core.errors import SteeringFailedError
from trait_core.schema import HEAD_OUT, RESID_POST, HookPoint

HOOK_POINTS: tuple[HookPoint, ...] = get_args(HookPoint)
"""All hook points, in the order in which requests number them."""

OPTION = "--hook-points"


@dataclass(frozen=True)
class Sites:
    """The sites of one engine.

    Args:
        n_layers: Decoder blocks of the model.
        further: Hook points beside `resid_post`, each on every layer.
        head_rows: Sites of a layer that hold what its attention heads put out (`heads`); 0: the engine has none.
    """

    n_layers: int
    further: tuple[HookPoint, ...] = ()
    head_rows: int = 0

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """The engine's hook points, in the order of the sites."""
        return (RESID_POST, *self.further)

    def __len__(self) -> int:
        return self.n_layers * (len(self.hook_points) + self.head_rows)

    def of(self, at: HookPoint, layer: int) -> int:
        """The index of a site.

        Raises:
            SteeringFailedError: The engine does not have it.
        """
        if at not in self.hook_points:
            raise SteeringFailedError(missing(at))
        if layer >= self.n_layers:
            raise SteeringFailedError(f"layer {layer} is out of range: the model has layers 0..{self.n_layers - 1}")
        return self.hook_points.index(at) * self.n_layers + layer

    def of_heads(self, layer: int, row: int) -> int:
        """The index of a layer's row of heads.

        Raises:
            SteeringFailedError: The engine does not have it.
        """
        if not self.head_rows:
            raise SteeringFailedError(missing(HEAD_OUT))
        return self.n_layers * (len(self.hook_points) + row) + self.of(RESID_POST, layer)

    def of_all(self, at: np.ndarray, layer: np.ndarray) -> np.ndarray:
        """The indexes of many sites.

        Args:
            at: `(n,)` int64: hook points, as `HOOK_POINTS` numbers them.
            layer: `(n,)` int64.

        Raises:
            SteeringFailedError: The engine does not have one of them.
        """
        for which, highest in {int(each): int(layer[at == each].max()) for each in np.unique(at)}.items():
            self.of(HOOK_POINTS[which], highest)
        return self._first[at] + layer

    @cached_property
    def _first(self) -> np.ndarray:
        """`(n_hook_points,)` int64: the first site of each; 0 where the engine does not have it."""
        return np.array([self.of(at, 0) if at in self.hook_points else 0 for at in HOOK_POINTS], dtype=np.int64)

    def name(self, site: int) -> str:
        """A site for a message: `layer 3`, `attn_out of layer 3`."""
        which, layer = divmod(site, self.n_layers)
        return f"layer {layer}" if not which else f"{self._place(which)} of layer {layer}"

    def _place(self, which: int) -> str:
        return self.hook_points[which] if which < len(self.hook_points) else HEAD_OUT

    def names(self, sites: Sequence[int]) -> str:
        """Sites for a message: `layers 3, 4`, `attn_out of layers 3, 4`, or both with `and` between them."""
        texts = []
        for which in range(len(self.hook_points) + self.head_rows):
            layers = [str(site % self.n_layers) for site in sites if site // self.n_layers == which]
            if layers:
                texts.append(
                    f"{self._place(which)} of layers {', '.join(layers)}" if which else f"layers {', '.join(layers)}"
                )
        return " and ".join(texts)


def missing(at: str) -> str:
    """The sentence that refuses a hook point that the engine was not started with."""
    return f"this engine has no hook point {at}: start the service with {OPTION} {at}"


def parsed(texts: Sequence[str]) -> list[str]:
    """Hook points of `--hook-points`, each once, in the order of the sites; `head_out` stands for the attention heads.

    Args:
        texts: Names, or several in one text with commas between them.

    Raises:
        ValueError: One is not a hook point.
    """
    given = [name.strip() for text in texts for name in text.split(",")]
    known = (*HOOK_POINTS, HEAD_OUT)
    for name in given:
        if name not in known:
            raise ValueError(f"{name!r} is not a hook point: {', '.join(known)}, with commas between them")
    return [at for at in known if at in given and at != RESID_POST]


def of_blocks(names: Sequence[str]) -> tuple[HookPoint, ...]:
    """Those of `parsed` at which an engine steers, which are all but the heads."""
    return tuple(at for at in HOOK_POINTS if at in names)
