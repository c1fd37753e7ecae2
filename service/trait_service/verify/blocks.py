"""The decoder blocks of a transformers model, found by structure rather than by the model's name."""

import re
from typing import Any

from torch import nn
from trait_core.errors import TraitError

USUAL_NAMES = ("layers", "h", "blocks", "block")
"""Names that transformers gives to the list of decoder blocks, where more than one list has the right length."""

_OTHER_TOWER = re.compile(r"vision|visual|image|video|audio|speech|encoder|talker|code2wav|mtp")


class BlocksNotFoundError(TraitError):
    """No list of decoder blocks has the expected length, or several do."""


def decoder_blocks(model: nn.Module, n_layers: int) -> list[nn.Module]:
    """The decoder blocks of a transformers model, in order.

    A list counts if it holds `n_layers` modules and lies in no other such list (as a block's experts do). The language model
    inside a multimodal one is preferred to its other towers, and the usual names to others.

    Args:
        model: Any causal or image-text-to-text model of transformers.
        n_layers: Number of blocks that are expected.

    Raises:
        BlocksNotFoundError: None was found, or more than one.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    fitting = {name: module for name, module in lists.items() if len(module) == n_layers}
    outermost = {
        name: module
        for name, module in fitting.items()
        if not any(name.startswith(f"{other}.") for other in fitting if other != name)
    }
    found = outermost
    inside = {id(module) for module in _language_model(model).modules()}
    for preferred in (
        lambda name: id(lists[name]) in inside,
        lambda name: not _OTHER_TOWER.search(name),
        lambda name: name.rpartition(".")[2] in USUAL_NAMES,
    ):
        found = {name: module for name, module in found.items() if preferred(name)} or found
    if len(found) != 1:
        seen = {name: len(module) for name, module in lists.items() if name.count(".") <= 4}  # not those inside blocks
        raise BlocksNotFoundError(
            f"{type(model).__name__}: expected one list of {n_layers} decoder blocks, found "
            f"{', '.join(found) or 'none'} among {seen or 'no lists'}"
        )
    return list(next(iter(found.values())))


def _language_model(model: Any) -> nn.Module:
    find = getattr(model, "get_decoder", None)
    found = find() if callable(find) else model
    return found if isinstance(found, nn.Module) else model
