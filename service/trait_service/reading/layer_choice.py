"""The layers that a request reads: those that it names, or all."""

from collections.abc import Sequence

from trait_core.errors import InvalidRequestError


def chosen_layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    """The layers in ascending order; all of the model's where none are named.

    Raises:
        InvalidRequestError: One is out of range, or named twice.
    """
    if layers is None:
        return list(range(n_layers))
    for layer in layers:
        if layer >= n_layers:
            raise InvalidRequestError(f"layer {layer} is out of range: 0..{n_layers - 1}", param="layers")
    if len(set(layers)) < len(layers):
        raise InvalidRequestError(f"layers {list(layers)[:32]} name a layer twice", param="layers")
    return sorted(layers)
