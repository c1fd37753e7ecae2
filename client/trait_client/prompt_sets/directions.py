"""Directions that a prompt set is projected on: chosen by name or pattern, and divided into passes that a request can hold."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from trait_client.http import AsyncTraitClient
from trait_core.errors import InvalidRequestError
from trait_core.schema import MAX_MONITORED, VectorInfo

_MOST_NAMED = 12


class Direction(NamedTuple):
    """A vector on a layer."""

    sha256: str
    layer: int


async def chosen_vectors(client: AsyncTraitClient, names: Sequence[str]) -> dict[str, VectorInfo]:
    """The vectors of these names by their sha256; one that several names fit is there once.

    Args:
        client: The service.
        names: Registered names, `sha256:...`, or patterns of names: `tonal.*`, `*.probe`, `*`. `*` stands for any characters,
            `?` for one, `[ab]` for one of several. The random directions of sweeps are not among what a pattern fits.

    Raises:
        UnknownVectorError: A vector is not registered.
        InvalidRequestError: No vector fits a pattern; the message lists those that are registered.
    """
    registered = await client.vectors() if any(map(_is_pattern, names)) else []
    chosen: dict[str, VectorInfo] = {}
    for name in names:
        found = (
            [each for each in registered if fnmatchcase(each.name, name)]
            if _is_pattern(name)
            else [await client.vector(name)]
        )
        if not found:
            known = sorted(each.name for each in registered)
            more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
            raise InvalidRequestError(
                f"no vector fits {name!r}: registered are {', '.join(known[:_MOST_NAMED]) or 'none'}{more}",
                param="vectors",
            )
        for each in found:
            chosen.setdefault(each.sha256, each)
    return chosen


def directions_of(vectors: Iterable[VectorInfo], layers: Sequence[int] | None) -> list[Direction]:
    """Every vector on every layer; without layers, on the layer that its file recommends.

    Raises:
        InvalidRequestError: A vector lacks a layer.
    """
    directions = []
    for vector in vectors:
        meta = vector.metadata
        for layer in [meta.chosen_layer] if layers is None else layers:
            if layer not in meta.layers:
                raise InvalidRequestError(
                    f"vector {vector.name!r} has no layer {layer}: it has {', '.join(map(str, sorted(meta.layers)))}",
                    param="layers",
                )
            directions.append(Direction(vector.sha256, layer))
    return directions


def passes(directions: Sequence[Direction], layers: Sequence[int] | None, limit: int) -> list[list[Direction]]:
    """Divide directions into parts that one request can hold.

    Args:
        directions: As `directions_of` gives them.
        layers: The layers that they were made with. A request asks for vectors times layers, so a part is such a product.
        limit: Most directions of a request.
    """
    if layers is None:
        return [list(directions[i : i + limit]) for i in range(0, len(directions), limit)]
    vectors = list(dict.fromkeys(direction.sha256 for direction in directions))
    blocks = [layers[i : i + limit] for i in range(0, len(layers), limit)]
    return [
        [Direction(sha256, layer) for sha256 in vectors[i : i + limit // len(block)] for layer in block]
        for block in blocks
        for i in range(0, len(vectors), limit // len(block))
    ]


def demand_one_request(directions: Sequence[Direction]) -> None:
    """Refuse more directions than one request can hold.

    Raises:
        InvalidRequestError: There are more.
    """
    if len(directions) > MAX_MONITORED:
        raise InvalidRequestError(
            f"{len(directions)} directions (vectors times layers) are asked for, at most {MAX_MONITORED} are possible at once: "
            "run the command again with the others, they are added to the same readings",
            param="vectors",
        )


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")
