"""The check at start-up that attention and MLP add to the stream what their hook points show."""

from collections.abc import Collection

import numpy as np
from trait_core.schema import RESID_POST, HookPoint

from trait_service.engine.sites import HOOK_POINTS, OPTION
from trait_service.reading.reader import ActivationReader
from trait_service.reading.residual_norms import NEUTRAL_TEXT, POSITIONS

OF_ADDED, OF_STREAM = 0.1, 0.01
"""How far off the sum of the branches may be: parts of what the layer adds, and of its stream, whose last bits are rounded."""


async def check_branches(reader: ActivationReader, hook_points: Collection[HookPoint]) -> None:
    """Refuse a model whose layers add something else than the outputs of their attention and MLP.

    The means over a text must add up, layer by layer: `stream[l] - stream[l - 1] = attn_out[l] + mlp_out[l]`. This needs all hook
    points; where the engine has one of the two only, nothing is checked.

    Raises:
        RuntimeError: They do not add up.
    """
    if set(hook_points) != set(HOOK_POINTS):
        return
    means = {at: await reader.means(NEUTRAL_TEXT, POSITIONS, at) for at in HOOK_POINTS}
    wrong = first_wrong(means[RESID_POST], means["attn_out"] + means["mlp_out"])
    if wrong is not None:
        raise RuntimeError(
            f"layer {wrong} adds something else to the stream than the outputs of its attention and its MLP, so that steering them "
            f"would not be what it says: start without {OPTION}"
        )


def first_wrong(stream: np.ndarray, added: np.ndarray) -> int | None:
    """The first layer, from 1 on, whose stream is not that of the layer before and what its branches add; None if there is none.

    Args:
        stream: `(n_layers, d_model)` float32, residual units: the output of each layer.
        added: The same shape: the sum of the outputs of its branches.
    """
    step = np.diff(stream, axis=0)
    error = np.linalg.norm(step - added[1:], axis=1)
    allowed = OF_ADDED * np.linalg.norm(step, axis=1) + OF_STREAM * np.linalg.norm(stream[1:], axis=1)
    wrong = np.flatnonzero(~(error <= allowed))
    return int(wrong[0]) + 1 if len(wrong) else None
