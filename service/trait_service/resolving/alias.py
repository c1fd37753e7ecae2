"""Model aliases: `<base>+sycophancy@3` steers a client that can only set a model name.

Several terms: `<base>+a@1+b@-2`. Coefficients are doses on each vector's chosen layer, over all positions.
"""

import math
import re
from collections.abc import Collection

from trait_core.errors import InvalidRequestError, UnknownVectorError
from trait_core.schema import MAX_TERMS, NAME_PATTERN, SHA256_PATTERN, Steering, SteeringTerm

from trait_service.errors import NotServedError
from trait_service.resolving.resolve import ResolvedSteering, ResolvedTerm, Resolver

_REFERENCE = re.compile(rf"(?:{NAME_PATTERN})|(?:{SHA256_PATTERN})")
_NUMBER = re.compile(r"^-?\d{1,12}(\.\d{1,12})?$")


def split_alias(model: str | None, served: Collection[str]) -> tuple[str | None, list[SteeringTerm]]:
    """Split a model name into a served model and steering terms.

    A served name, or a name that begins with no served name, is returned unchanged.

    Raises:
        InvalidRequestError: The part after the base is not a list of `+NAME@COEFFICIENT`.
    """
    if not model or model in served:
        return model, []
    base = max((name for name in served if model.startswith(f"{name}+")), key=len, default=None)
    if base is None:
        return model, []
    parts = model[len(base) + 1 :].split("+")
    if len(parts) > MAX_TERMS:
        raise InvalidRequestError(f"the model alias has {len(parts)} terms; at most {MAX_TERMS}", param="model")
    return base, [_term(part) for part in parts]


def resolve_request(
    resolver: Resolver, steering: Steering | None, alias_terms: list[SteeringTerm]
) -> ResolvedSteering | None:
    """Steering of a request: the alias's terms, then the body's; None without terms.

    Raises:
        NotServedError: The alias names a vector that is not registered.
        InvalidRequestError: As `Resolver.resolve`; a fault of the alias has `param` "model".
    """
    resolved = _resolve_alias(resolver, alias_terms)
    terms = steering.terms if steering else []
    if len(alias_terms) + len(terms) > MAX_TERMS:
        raise InvalidRequestError(
            f"{len(alias_terms) + len(terms)} terms with those of the model alias; at most {MAX_TERMS}", "steering"
        )
    for i, term in enumerate(terms):
        resolved += resolver.resolve_term(term, f"steering.terms[{i}]")
    resolver.check_layers(resolved)
    return ResolvedSteering(tuple(resolved)) if resolved else None


def _resolve_alias(resolver: Resolver, terms: list[SteeringTerm]) -> list[ResolvedTerm]:
    try:
        resolved = [each for term in terms for each in resolver.resolve_term(term, "model")]
        resolver.check_layers(resolved)
    except UnknownVectorError as error:
        raise NotServedError(f"the model alias cannot be served: {error}", param="model") from error
    except InvalidRequestError as error:
        raise InvalidRequestError(f"the model alias cannot be served: {error}", param="model") from error
    return resolved


def _term(text: str) -> SteeringTerm:
    vector, _, coefficient = text.partition("@")
    if not _REFERENCE.fullmatch(vector) or not _NUMBER.match(coefficient) or not math.isfinite(float(coefficient)):
        raise InvalidRequestError(
            f"{text[:100]!r} is not a term of a model alias: write <model>+NAME@COEFFICIENT, for example +sycophancy@3 or "
            "+a@1.5+b@-2",
            param="model",
        )
    return SteeringTerm(vector=vector, coefficient=float(coefficient))
