"""Scopes of steering against the tokens of one prompt: what they select is looked at before the engine gets it."""

from collections import defaultdict
from collections.abc import Sequence

from trait_core.errors import InvalidRequestError
from trait_core.positions import NOWHERE, Landmarks, Positions, Slice

from trait_service.engine.spec import TermSpec
from trait_service.resolving.resolve import ResolvedSteering

PARAM = "steering.terms"


def check_scopes(terms: Sequence[TermSpec], n_prompt: int, terms_per_layer: int) -> None:
    """Refuse selectors that the engine cannot steer at.

    Args:
        terms: The terms, as they travel to the workers.
        n_prompt: Tokens of the prompt.
        terms_per_layer: Terms of one request on one layer, each interval of a scope counted.

    Raises:
        InvalidRequestError: A selector selects nothing of this prompt, or comes to too many intervals.
    """
    used: dict[int, int] = defaultdict(int)
    for term in terms:
        used[term.layer] += 1 if term.reply is None else 2
        if isinstance(term.scope, Positions):
            used[term.layer] += _n_intervals(term, term.scope, n_prompt) - 1
    for layer, n in used.items():
        if n > terms_per_layer:
            raise InvalidRequestError(
                f"{n} terms act on layer {layer}, each interval of a scope counted; at most {terms_per_layer} "
                "(--terms-per-layer): use fewer terms, or selectors with fewer parts",
                param=PARAM,
            )


def _n_intervals(term: TermSpec, scope: Positions, n_prompt: int) -> int:
    try:
        n = len(scope.intervals(n_prompt, None))
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), param=PARAM) from error
    if n == 0 and term.reply is None:
        raise InvalidRequestError(f"scope {scope} selects no position: the prompt has {n_prompt} tokens", param=PARAM)
    return n


def selectors_of(steering: ResolvedSteering | None) -> list[Positions]:
    """The selectors among the scopes of a request's steering."""
    return [term.scope for term in steering.terms if isinstance(term.scope, Positions)] if steering else []


def as_generated(terms: Sequence[TermSpec], n_prompt: int) -> list[TermSpec]:
    """The terms for a reply that is read back after it was generated: they touch the positions that they touched then.

    Args:
        terms: As they were while it was generated; what depends on the reply's tokens is decided by them again.
        n_prompt: Tokens of the prompt that it was generated for.
    """
    found = []
    for term in terms:
        held = Positions(tuple(map(Slice.whole, term.intervals(n_prompt))) or (NOWHERE,))
        found.append(_with_prompt(term, n_prompt).model_copy(update={"scope": held}))
    return found


def placed(terms: Sequence[TermSpec], places: Landmarks) -> list[TermSpec]:
    """The terms for a text that is given whole: selectors and gates count inside its reply, a part of the engine's prompt.

    Raises:
        InvalidRequestError: The text has no such part.
    """
    if places.response is not None:
        terms = [_with_prompt(term, places.response[0]) for term in terms]
    return [
        term.model_copy(update={"scope": term.scope.located(places)}) if isinstance(term.scope, Positions) else term
        for term in terms
    ]


def _with_prompt(term: TermSpec, n_prompt: int) -> TermSpec:
    """The term whose gate, if it holds a prompt's mean, knows where the prompt ends."""
    if term.when is None or term.when.hold != "prompt" or n_prompt < 1:
        return term
    return term.model_copy(update={"when": term.when.model_copy(update={"n_prompt": n_prompt})})
