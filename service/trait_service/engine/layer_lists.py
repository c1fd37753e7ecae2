"""Finding the decoder layers in a model: the one list of them, whatever surrounds it."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from trait_service.engine.errors import UnsupportedModelError

LIST_NAMES = ("layers", "h", "blocks")
"""Names that models give their list of decoder layers: `model.layers`, `transformer.h`, `transformer.blocks`, ..."""

LANGUAGE_PARTS = ("language_model", "text_model", "llm")
"""Parts of a multimodal model's names that say language, where vLLM does not tell which part writes the text."""

PLACEHOLDERS = ("PPMissingLayer", "StageMissingLayer")
"""vLLM's stand-ins for layers that are on another worker."""


def decoder_layers(model: nn.Module, n_layers: int) -> dict[int, nn.Module]:
    """The decoder layers of a model on this worker, by index.

    Args:
        model: As loaded by vLLM.
        n_layers: Number of layers in the text model's config; all must exist (as placeholders under pipeline parallelism).

    Raises:
        UnsupportedModelError: No list of `n_layers` layers, or more than one, or a list that holds a layer twice.
    """
    found = dict(_lists(model))
    inside = _language_modules(model)
    if inside is not None:
        found = {name: layers for name, layers in found.items() if any(layer in inside for layer in layers)}
    fitting = _each_once({name: layers for name, layers in found.items() if len(layers) == n_layers})
    if len(fitting) > 1:
        fitting = {
            name: each for name, each in fitting.items() if set(LANGUAGE_PARTS) & set(name.split("."))
        } or fitting
    if len(fitting) != 1:
        raise UnsupportedModelError(_not_one(model, n_layers, {name: len(layers) for name, layers in found.items()}))
    ((name, layers),) = fitting.items()
    here = {i: layer for i, layer in enumerate(layers) if type(layer).__name__ not in PLACEHOLDERS}
    if len(set(here.values())) != len(here):
        raise UnsupportedModelError(
            f"{type(model).__name__}: {name} holds the same layer at several indexes, so that it is called several times for "
            "one token: a model that repeats its layers is not supported"
        )
    return here


def _lists(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    """Every list of layers, by its name, placeholders and repeated layers included."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in LIST_NAMES and isinstance(module, nn.ModuleList):
            yield name, tuple(module)


def _each_once(lists: dict[str, tuple[nn.Module, ...]]) -> dict[str, tuple[nn.Module, ...]]:
    """The lists without those that hold the layers of an earlier one."""
    distinct: dict[tuple[nn.Module, ...], str] = {}
    for name, layers in lists.items():
        distinct.setdefault(layers, name)
    return {name: layers for layers, name in distinct.items()}


def _language_modules(model: nn.Module) -> set[nn.Module] | None:
    """The modules of the part that writes the text; None if vLLM does not say which part of the model that is."""
    get_language_model = getattr(model, "get_language_model", None)
    if get_language_model is None:
        return None
    try:
        language: Any = get_language_model()
    except NotImplementedError:  # vLLM's word for "none was marked"
        return None
    # vLLM's Transformers backend answers with the whole model under another class, whose `model` is the language model.
    inner = type(language).__dict__.get("model")
    part = inner if isinstance(inner, nn.Module) else language
    return set(part.modules())


def _not_one(model: nn.Module, n_layers: int, counts: dict[str, int]) -> str:
    names = ", ".join(LIST_NAMES)
    found = ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"
    return (
        f"{type(model).__name__}: the config says {n_layers} decoder layers, and not exactly one list of as many was found "
        f"(found, of the names {names}: {found}): the model is not supported"
    )
