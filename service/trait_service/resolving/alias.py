"""Model aliases: `<base>+sycophancy@3` steers a client that can only set a model name.

Several terms: `<base>+a@1+b@-2`. Coefficients are doses on each vector's chosen layer, over all positions: any decimal
number (`3`, `+1`, `.5`, `1e-1`). A term without one is refused: how strong it is meant to be is not guessed.
"""

import math
import re
from collections.abc import Collection

from trait_core.errors import InvalidRequestError, UnknownVectorError
from trait_core.schema import MAX_TERMS, SHA256_PATTERN, SHA256_PREFIX, Steering, SteeringTerm, is_name

from trait_service.errors import NotServedError
from trait_service.resolving.resolve import ResolvedSteering, ResolvedTerm, Resolver

_TERM = re.compile(
    rf"\s{{0,8}}\+\s{{0,8}}(?P<vector>(?:{SHA256_PREFIX})?[A-Za-z0-9_.-]+)\s{{0,8}}"
    r"(?:@\s{0,8}(?P<coefficient>[+-]?\s{0,8}(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s{0,8})?(?=\+|$)"
)
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})
"""Minus signs that a word processor or a web page writes."""

FORM = "<model>+NAME@COEFFICIENT, for example +sycophancy@3 or +a@1.5+b@-2"
_LONGEST = 4096


def split_alias(model: str | None, served: Collection[str]) -> tuple[str | None, list[SteeringTerm]]:
    """Split a model name into a served model and steering terms.

    A served name, or a name that is not an alias, is returned unchanged.

    Raises:
        InvalidRequestError: The part after the base is not a list of `+NAME@COEFFICIENT`.
        NotServedError: It is an alias, and begins with no served name.
    """
    if not model or model in served:
        return model, []
    text = model.strip()
    bases = [name for name in served if text.startswith(name) and text[len(name) :].lstrip().startswith("+")]
    if not bases:
        _refuse_other_base(model, served)
        return model, []
    base = max(bases, key=len)
    return base, _terms(text[len(base) :].translate(_MINUS))


def _terms(tail: str) -> list[SteeringTerm]:
    terms = []
    at = 0
    while at < len(tail):
        found = _TERM.match(tail, at) if len(tail) <= _LONGEST else None
        if found is None:
            raise _malformed(tail[at:])
        terms.append(_term(found))
        at = found.end()
    if len(terms) > MAX_TERMS:
        raise InvalidRequestError(f"the model alias has {len(terms)} terms; at most {MAX_TERMS}", param="model")
    return terms


def _refuse_other_base(model: str, served: Collection[str]) -> None:
    """Refuse an alias of a model that is not served; with its name unchecked, vLLM would answer it unsteered.

    Raises:
        NotServedError: The name is an alias.
    """
    base, plus, tail = model.partition("+")
    if base and plus and len(tail) <= _LONGEST and (found := _TERM.match(f"+{tail}")) and found["coefficient"]:
        raise NotServedError(
            f"the model alias {model[:200]!r} cannot be served: there is no model {base[:200]!r}; served: {', '.join(served)}",
            param="model",
        )


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


def _term(found: re.Match[str]) -> SteeringTerm:
    vector, written = found["vector"], found["coefficient"]
    if not _is_reference(vector):
        raise _malformed(found[0], "names are lower-case" if vector != vector.lower() else "")
    if written is None:
        raise _malformed(found[0], f"it has no coefficient: write +{vector}@1 for a dose of 1")
    coefficient = float("".join(written.split()))
    if not math.isfinite(coefficient):
        raise _malformed(found[0], "the coefficient is too large")
    return SteeringTerm(vector=vector, coefficient=coefficient)


def _is_reference(vector: str) -> bool:
    """True if a text names a vector, by name or by hash."""
    return is_name(vector) or re.fullmatch(SHA256_PATTERN, vector) is not None


def _malformed(text: str, why: str = "") -> InvalidRequestError:
    reason = f" ({why})" if why else ""
    return InvalidRequestError(
        f"{text.strip()[:100]!r} is not a term of a model alias{reason}: write {FORM}", param="model"
    )
