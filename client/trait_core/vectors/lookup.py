"""Finds a registered vector by name, hash, or trait and method."""

from collections.abc import Sequence

from trait_core.errors import InvalidRequestError, UnknownVectorError
from trait_core.schema import HookPoint, VectorInfo
from trait_core.vectors.controls import is_control

MAX_NAMES = 10
"""Maximum number of names in a message."""


def find_vector(
    registered: Sequence[VectorInfo],
    *,
    reference: str | None = None,
    trait: str | None = None,
    method: str | None = None,
    at: HookPoint | None = None,
    choose: str = "give its name",
    param: str = "vector",
) -> VectorInfo:
    """The vector with a name or hash; without a match, or without `reference`, the one of a trait.

    If a trait has several vectors, those registered as `<trait>`, `<trait>.<method>` or `<trait>.<method>.<place>` (with `at`)
    take precedence; names of one file count as one vector.

    Args:
        registered: The service's vectors.
        reference: A registered name, or `sha256:...`.
        trait: A trait; None looks for `reference` only.
        method: Consider only the trait's vectors of this method.
        at: Consider only the trait's vectors that were extracted at this place in a block.
        choose: How the caller picks one of several, for the message.
        param: The caller's field, for the error.

    Raises:
        UnknownVectorError: Nothing matches; the message lists the registered names.
        InvalidRequestError: The trait has several such vectors; the message lists them.
    """
    for vector in registered:
        if reference is not None and reference in {vector.name, vector.sha256}:
            return vector
    fitting = [
        v
        for v in registered
        if v.metadata.trait == trait and method in (None, v.metadata.method) and at in (None, v.metadata.hook_point)
    ]
    if _several(fitting):
        fitting = [v for v in fitting if v.name in {trait, f"{trait}.{method}", f"{trait}.{method}.{at}"}] or fitting
    of_method, where = (f"{method} " if method else ""), (f" at {at}" if at else "")
    if _several(fitting):
        raise InvalidRequestError(
            f"trait {trait!r} has several {of_method}vectors{where} ({_names(fitting)}): {choose}", param=param
        )
    if not fitting:
        missing = (
            f"trait {trait!r} has no {of_method}vector{where}" if reference is None else f"no vector {reference!r}"
        )
        option = f" --at {at}" if at else ""
        extract = f"extract one with `trait-extract run --trait {trait}{option}`, or " if trait is not None else ""
        raise UnknownVectorError(
            f"{missing}: the service has {_names(registered)}; {extract}register a file with "
            "`trait-client vectors put NAME FILE`",
            param=param,
        )
    return fitting[0]


def _several(vectors: Sequence[VectorInfo]) -> bool:
    return len({vector.sha256 for vector in vectors}) > 1


def _names(vectors: Sequence[VectorInfo]) -> str:
    names = [vector.name for vector in vectors if not is_control(vector.name)]
    return (", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")) or "none"
